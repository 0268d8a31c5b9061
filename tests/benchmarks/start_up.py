"""What commands cost before they work: ``python tests/benchmarks/start_up.py``.

Measured is the processor time of a command's process, median of five, as a share of that of
``python -c "import torch, torchvision"``, which is measured in turn with them. Prints a table with
the bars, and writes it to ``start_up.json`` in the current folder.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bottleneck import ExperimentLog, fit_head, load_features
from bottleneck.demo import write_demo_images
from bottleneck.experiments import environment

RUNS = 5
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


def run(arguments: tuple[str, ...], codes: tuple[int, ...] = (0,)) -> tuple[float, int]:
    """Return a process's processor time, nan where there is no such command, and its exit code."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in codes:
            output.seek(0)
            said = output.read().decode()
            if "No such command" not in said:
                sys.exit(f"{arguments} ended with {process.returncode}: {said}")
            return float("nan"), process.returncode
    return usage.ru_utime + usage.ru_stime, process.returncode


def prepare() -> None:
    """Make a cache, heads and a log in the current folder."""
    write_demo_images("data")
    run(("-m", "bottleneck", *EXTRACT))
    features = load_features("cache")
    for clf in HEADS:
        fit_head(features, clf).save(Path("heads") / clf)
    folds = [{"repeat": 0, "fold": fold, "images": 40, "accuracy": 0.9} for fold in range(RUNS)]
    ExperimentLog("experiments.sqlite").append({"clf": "svm"}, folds, 1.5, environment())


def measure() -> list[dict]:
    """Return a row of the table for each command."""
    seconds: dict[tuple[str, ...], list[float]] = {}
    ends: dict[tuple[str, ...], int] = {}
    for _ in range(RUNS):
        for arguments, codes in ((BASELINE, (0,)), *((row.python, row.codes) for row in ROWS)):
            spent, ends[arguments] = run(arguments, codes)
            seconds.setdefault(arguments, []).append(spent)
    medians = {arguments: statistics.median(each) for arguments, each in seconds.items()}
    baseline = {"command": " ".join(BASELINE), "bar": None, "share": 1.0, "torch": True}
    return [
        baseline | {"seconds": medians[BASELINE]},
        *(
            {
                "command": row.name,
                "bar": row.bar,
                "share": medians[row.python] / medians[BASELINE],
                "torch": {LIGHT: False, TORCH: True}.get(ends[row.python]),
                "seconds": medians[row.python],
            }
            for row in ROWS
        ),
    ]


def main() -> None:
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare()
        found = measure()
        os.chdir(here)
    print(f"{'command':56} {'bar':>5} {'share':>6} {'seconds':>8}  torch")
    for row in found:
        bar = "" if row["bar"] is None else f"{row['bar']:.1f}"
        loaded = {True: "yes", False: "no", None: ""}[row["torch"]]
        print(f"{row['command']:56} {bar:>5} {row['share']:6.2f} {row['seconds']:8.2f}  {loaded}")
        if row["share"] != row["share"]:  # there is no such command yet
            row |= {"share": None, "seconds": None}
    Path("start_up.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
