"""Which base, which layer, and does joining pay? ``benchmarks/bases.py``.

What `advise` finds on the demo's faces and, with ``--packages FOLDER`` (see ``sets.py``), on
drawings of openclipart-png: held-out accuracy of softmax on layers of EfficientNet-Lite 0, 1 and 2,
on the layers of each joined, on each base, and on the two best bases joined; each with the paired
difference to the last layer of the same base, or to the best base, and its 95% interval over folds
of the training images, drawn several times.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import joblib

from bottleneck import Cache, FrozenBase, ImageSet, extract_features, select_layers
from bottleneck.advise import advise_on
from common import Tables, run
from precision import pictures
from sets import load

BASES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
LAYERS = ("blocks.4", "blocks.5", "penultimate")
FACES, CLIPART = "faces", "clipart"


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield FACES, judged(pictures(folder / FACES, every=given.every), folder, given)
        if given.packages:
            images = load(CLIPART, given.packages / CLIPART, folder / "set", images=given.images)
            yield CLIPART, judged(images, folder, given)


def judged(images: ImageSet, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Return what advice on each base says of its layers, and advice on all of the bases."""
    cache = Cache(folder / f"{images.name}-cache")
    extract_features(images, [FrozenBase(each, LAYERS, pool="avg") for each in given.bases], cache)
    found: dict[str, Any] = {}
    with joblib.parallel_config("loky", n_jobs=given.jobs):
        for base in given.bases:
            layers = select_layers(cache, models=(base,), join=True)
            advice = advise_on(cache, layers, repeats=given.repeats)
            found |= {
                f"{base}, {'joined' if each.joined else each.layer}": facts(each)
                for each in advice.evidence.layers
            }
        chosen = advise_on(cache, select_layers(cache, models=given.bases), repeats=given.repeats)
    if chosen.bases:
        found |= {each.model: facts(each) for each in chosen.bases.bases}
        found["the two best, joined"] = facts(chosen.bases.joined)
        found["verdict"] = chosen.bases.sentence
    return found


def facts(scored: Any) -> dict[str, dict[str, float]]:
    difference = {"difference": asdict(scored.difference)} if scored.difference else {}
    return {"accuracy": asdict(scored.accuracy), **difference}


def tables(found: dict[str, Any]) -> Tables:
    columns = [(name, column) for name in found for column in ("accuracy", "difference")]
    rows = [name for name in next(iter(found.values())) if name != "verdict"]
    cells = [(row, *(cell(found[name][row], column) for name, column in columns)) for row in rows]
    return {"bases": [("", *(f"{name}: {column}" for name, column in columns)), *cells]}


def cell(scored: dict[str, dict[str, float]], column: str) -> str:
    if column not in scored:
        return "-"
    sign = "+" if column == "difference" else ""
    value, low, high = (f"{each:{sign}.3f}" for each in scored[column].values())
    return f"{value} ({low} to {high})"


if __name__ == "__main__":
    run(
        measure,
        tables,
        packages=(None, None),
        bases=(BASES, BASES[:1]),
        images=(1200, 100),
        every=(1, 2),
        repeats=(5, 1),
        jobs=(-1, 1),
    )
