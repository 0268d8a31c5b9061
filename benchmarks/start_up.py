"""What commands cost before they work: ``benchmarks/start_up.py``.

Measured is the processor time of a command's process, median of the runs, as a share of that of
``python -c "import torch, torchvision"``, which is measured in turn with them. Each command has its
bar beside it.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bottleneck import ExperimentLog, fit_head, load_features
from bottleneck.demo import write_demo_images
from bottleneck.experiments import environment
from common import medians, run, run_process

BASELINE = ("-c", "import torch, torchvision")
EXTRACT = ("extract", "--model", "efficientnet_lite0")
HEADS = ("softmax", "centroid", "knn")
LIGHT, TORCH = 30, 31
"""How a command that is stopped ends: without torch, torchvision and timm, or with one of them."""

STOPPED = f"""
import os, sys
from bottleneck.cli import main
from bottleneck.heads import Head
from bottleneck.heads.recipes import Linear
load = Head.load

def stop(*_):
    heavy = {{"torch", "torchvision", "timm"}} & set(sys.modules)
    os._exit({TORCH} if heavy else {LIGHT})

"""
AT_THE_FIRST_FOLD = STOPPED + "Linear.held_out = stop\nmain(sys.argv[1:])"
WITH_THE_HEAD = STOPPED + "Head.load = lambda folder: stop(load(folder))\nmain(sys.argv[1:])"


@dataclass(frozen=True)
class Row:
    """A command, how much it may cost, and how it ends."""

    name: str
    bar: float
    python: tuple[str, ...]
    codes: tuple[int, ...] = (0,)


def command(bar: float, *arguments: str, codes: tuple[int, ...] = (0,)) -> Row:
    return Row(" ".join(arguments), bar, ("-m", "bottleneck", *arguments), codes)


def stopped(where: str, code: str, *arguments: str) -> Row:
    name = f"{' '.join(arguments)}, {where}"
    return Row(name, 0.6, ("-c", code, *arguments), (LIGHT, TORCH))


ROWS = (
    command(0.2, "--help"),
    command(0.2, "config"),
    command(0.2, "models"),
    command(0.2, "leaderboard"),
    command(0.2, "cache", "ls"),
    command(0.2, *EXTRACT, "--data", "nothing", codes=(1, 2)),
    command(0.2, "extract", "--model", "vgg61", codes=(1, 2)),
    command(0.2, *EXTRACT, "--dtype", "float61", codes=(1, 2)),
    command(0.2, "fit-head", "--cache", "nothing", codes=(1, 2)),
    command(0.2, "fit-head", "--clf", "softmacks", codes=(1, 2)),
    command(0.2, "evaluate", "--head", "nothing", codes=(1, 2)),
    stopped("first fold", AT_THE_FIRST_FOLD, "fit-head", "--clf", "softmax"),
    *(stopped("loaded", WITH_THE_HEAD, "evaluate", "--head", clf) for clf in HEADS),
    command(1.6, *EXTRACT),
)


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    here = Path.cwd()
    rows = [Row("import torch, torchvision", 1.0, BASELINE), *ROWS[:: given.every]]
    ends: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare()
        found = medians(given.rounds, {row.name: partial(cost, row, ends) for row in rows})
        os.chdir(here)
    for row in rows:
        figures: dict[str, Any] = {"seconds": found[row.name], "bar": row.bar}
        figures["share"] = found[row.name] / found[rows[0].name]
        if ends[row.name] in {LIGHT, TORCH}:
            figures["torch imported"] = ends[row.name] == TORCH
        yield row.name, figures


def cost(row: Row, ends: dict[str, int]) -> float:
    """Return a command's seconds of processor time, and note its exit code."""
    _, ends[row.name], usage = run_process([sys.executable, *row.python], row.codes)
    return usage.ru_utime + usage.ru_stime


def prepare() -> None:
    """Make a cache, heads and a log in the current folder."""
    write_demo_images("data")
    run_process([sys.executable, "-m", "bottleneck", *EXTRACT])
    features = load_features("cache")
    for clf in HEADS:
        fit_head(features, clf).save(Path("heads") / clf)
    folds = [{"repeat": 0, "fold": fold, "images": 40, "accuracy": 0.9} for fold in range(5)]
    ExperimentLog("experiments.sqlite").append({"clf": "svm"}, folds, 1.5, environment())


if __name__ == "__main__":
    run(measure, rounds=(5, 1), every=(1, 9))
