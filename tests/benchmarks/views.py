"""Cached views against augmentation on the fly: ``python tests/benchmarks/views.py CLIPART``.

Fine-tunes EfficientNet-Lite0 from ``blocks.5`` up for 20 epochs on images of openclipart-png (its
folder ``png``), twice from the same head: once every epoch decodes and augments the images and
computes the whole network; once eight views of each image are extracted up to the boundary, and the
epochs read these. Prints seconds, the extraction of views included, test accuracies with their
standard error, and the ratio. Writes ``views.json`` into the current folder. ``--epochs`` and
``--seed`` change what they say.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from plateau import LAYER, MODEL, SETTINGS, UNFROZEN, VIEWS, fitted, split, tested
from precision import clipart

from bottleneck import Cache, FrozenBase, extract_features
from bottleneck.finetune import FinetuneSettings, finetune_head


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clipart", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    epochs = arguments.epochs
    on_the_fly = FinetuneSettings(
        UNFROZEN, epochs=epochs, patience=epochs, seed=arguments.seed, **SETTINGS | {"views": None}
    )
    ways = {
        "on the fly": on_the_fly,
        "cached views": replace(on_the_fly, from_cache=True, views=VIEWS),
    }
    results: dict = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = split(clipart(arguments.clipart, folder / "clipart.csv"), arguments.seed)
        cache = Cache(folder / "cache")
        extract_features(images, FrozenBase(MODEL, [LAYER], pool="avg"), cache)
        head = fitted(cache, images)
        number = sum(item.split == "test" for item in images.items)
        results["head"] = {"accuracy": tested(head, cache)}
        for way, settings in ways.items():
            started = time.monotonic()
            tuned = finetune_head(head, images, cache, folder / way.replace(" ", "-"), settings)
            seconds = time.monotonic() - started
            extract_features(images, FrozenBase(str(tuned.folder)), cache)
            accuracy = tested(tuned.head, cache)
            error = (accuracy * (1 - accuracy) / number) ** 0.5
            results[way] = {"seconds": seconds, "accuracy": accuracy, "standard error": error}
            print(way, results[way], flush=True)
    seconds = [results[way]["seconds"] for way in ways]
    results["ratio"] = seconds[0] / seconds[1]
    print(f"ratio {results['ratio']:.2f}")
    Path("views.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
