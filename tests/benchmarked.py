"""Benchmarks, run at their smallest size in processes that have loaded everything already."""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from joblib.externals.loky import reusable_executor

__all__ = ["FOLDER", "ROOT", "end_loky", "run_benchmark"]

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"


def end_loky() -> None:
    """End the processes of loky, which work in a folder that is removed, and wait for others."""
    if reusable_executor._executor is not None:
        reusable_executor._executor.shutdown(wait=True)


def started(name: str, arguments: Sequence[str], printed: str) -> None:
    """Run a benchmark as a program; runs in a process of its own."""
    with open(printed, "wb") as file:  # noqa: PTH123 - before the path of its modules is set
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.argv, sys.path = [f"{name}.py", *arguments], [str(FOLDER), str(ROOT), *sys.path]
    multiprocessing.set_start_method(None, force=True)  # the usual one
    try:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    finally:
        end_loky()  # which would be waited for


@pytest.fixture
def run_benchmark(processes) -> Callable[..., str]:
    """Run a benchmark at its smallest size; returns what it prints."""

    def run(name: str, *arguments: str, code: int = 0) -> str:
        given = name, ["--smoke", *map(str, arguments)], "printed"
        process = processes.Process(target=started, args=given)
        process.start()
        process.join()
        printed = Path("printed").read_text()
        assert process.exitcode == code, printed
        return printed

    return run
