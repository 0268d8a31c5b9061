"""Training on cached activations against end to end: ``python tests/benchmarks/finetune.py``.

Fine-tunes a base of random weights (they do not change the time) from a layer on, in turn from the
cache and from the images, by the same command of the library; the end-to-end runs have the frozen
part fused as in an extraction, and decode ahead of the step. Prints images per second of training,
medians of the epochs but the first of each run, what the extraction of the activations took, and by
how much the losses of the two differ; writes ``finetune.json`` into the current folder.
``--model``, ``--layer``, ``--unfreeze``, ``--images``, ``--epochs`` and ``--rounds`` choose others.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import write_photographs

from bottleneck import (
    Cache,
    FinetuneSettings,
    FrozenBase,
    Head,
    ImageSet,
    extract_features,
    load_features,
    select_features,
)
from bottleneck.bases.splitting import split_network
from bottleneck.finetune import finetune_head
from bottleneck.heads import fit_rows

BAR = 3.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vgg16")
    parser.add_argument("--layer", default="block5_pool")
    parser.add_argument("--unfreeze", default="block5_conv1")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        images = photographs(place / "data", given.images)
        cache = Cache(place / "cache")
        head = fitted(images, cache, given)
        results = measure(head, images, cache, place, given)
    results["multiply-adds allow"] = allowed(given)
    ratio = results["from cache"] / results["end to end"]
    print(f"from the cache: {ratio:.2f} times the images per second, bar {BAR}")
    print(results)
    Path("finetune.json").write_text(json.dumps(results, indent=2) + "\n")


def photographs(folder: Path, count: int) -> ImageSet:
    """Write photographs to train on, and a few to validate on."""
    write_photographs(folder / "train", count)
    write_photographs(folder / "val", 8, size=(480, 360))
    return ImageSet.from_folder(folder)


def fitted(images: ImageSet, cache: Cache, given: argparse.Namespace) -> Head:
    base = FrozenBase(given.model, [given.layer], weights="random", precision="fp32")
    extract_features(images, base, cache)
    train = load_features(cache, select_features(cache)).training()
    source = load_features(cache, select_features(cache)).provenance
    return fit_rows(train.X, train.labels, C=0.01, source=source)


def measure(
    head: Head, images: ImageSet, cache: Cache, place: Path, given: argparse.Namespace
) -> dict[str, float]:
    """Run both ways in turn; return medians of images per second and the gap between losses."""
    shared = {"unfreeze": given.unfreeze, "epochs": given.epochs, "patience": given.epochs}
    ways = {
        "from cache": FinetuneSettings(**shared, from_cache=True),
        "end to end": FinetuneSettings(**shared),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    losses: dict[str, list[float]] = {}
    began, extraction = time.monotonic(), 0.0

    def progress(stage: str, done: int, total: int, **_: int) -> None:
        nonlocal extraction
        if stage == "extract" and done == total:
            extraction = max(extraction, time.monotonic() - began)

    for number in range(given.rounds):
        for way, settings in ways.items():
            result = finetune_head(
                head, images, cache, place / f"{number}{way}", settings, progress=progress
            )
            history = result.head.scores["history"]
            rates[way] += [result.train / epoch["seconds"] for epoch in history[1:]]
            losses[way] = [epoch["loss"] for epoch in history]
            print(way, [round(each, 2) for each in rates[way]], flush=True)
    pairs = zip(losses["from cache"], losses["end to end"], strict=True)
    return {
        **{way: round(statistics.median(found), 3) for way, found in rates.items()},
        "seconds of extraction": round(extraction, 2),
        "largest gap of losses": max(abs(one - other) for one, other in pairs),
    }


def allowed(given: argparse.Namespace) -> float:
    """Return by which factor the multiply-adds of a step are fewer above the boundary."""
    network = FrozenBase(given.model, [given.layer], weights="random").network
    layer = network.resolve(given.layer)[0]
    boundary = split_network(network, given.unfreeze, layer).boundary
    whole = network.layers[layer].multiply_adds
    below = network.layers[boundary].multiply_adds if boundary else 0
    return round((below + 3 * (whole - below)) / (3 * (whole - below)), 2)


if __name__ == "__main__":
    main()
