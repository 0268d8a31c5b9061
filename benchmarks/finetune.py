"""Training on cached activations against end to end: ``benchmarks/finetune.py``.

Fine-tunes a base of random weights (they do not change the time) from a layer on, in turn from the
cache and from the images, by the same command of the library; the end-to-end runs have the frozen
part fused as in an extraction, and decode ahead of the step. Figures are images per second of
training, medians of the epochs but the first of each run, what the extraction of the activations
took, and by how much the losses of the two differ. The bar for the ratio is 3.5.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from common import Tables, run, write_photographs


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        images = photographs(place / "data", given.images)
        cache = Cache(place / "cache")
        head = fitted(images, cache, given)
        found = compare(head, images, cache, place, given)
        yield f"{given.model} from {given.unfreeze}", found | {"allowed": allowed(given)}


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


def compare(
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
    pairs = zip(losses["from cache"], losses["end to end"], strict=True)
    found = {way: statistics.median(each) for way, each in rates.items()}
    return {
        **found,
        "ratio": found["from cache"] / found["end to end"],
        "seconds of extraction": extraction,
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


def tables(found: dict[str, Any]) -> Tables:
    ((name, own),) = found.items()
    return {
        "finetune": [
            (f"{name} on", "images/s"),
            ("end to end: decoding, the frozen part, the trained part", own["end to end"]),
            ("from the cache", own["from cache"]),
            (f"ratio (the multiply-adds alone allow {own['allowed']})", own["ratio"]),
        ]
    }


if __name__ == "__main__":
    run(
        measure,
        tables,
        model=("vgg16", "resnet18"),
        layer=("block5_pool", "penultimate"),
        unfreeze=("block5_conv1", "layer4"),
        images=(128, 8),
        epochs=(3, 2),
        rounds=(2, 1),
    )
