"""Options that several commands have besides the settings of their stage."""

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from annotated_doc import Doc
from pydantic import AfterValidator, Field

import bottleneck
from bottleneck.errors import BottleneckError, UsageError
from bottleneck.fields import ARGUMENT, Declared, Option, settings
from bottleneck.settings import ReadSettings
from bottleneck.settings.values import (
    ByteSize,
    Count,
    Device,
    GroupBy,
    MaxBytes,
    MinImages,
    MovedWeights,
    Name,
    Nested,
    NewSet,
)
from bottleneck.sources import location

__all__ = [
    "FORMS",
    "BankName",
    "CacheFolder",
    "CsvFile",
    "EpochSettings",
    "ExperimentSettings",
    "Folders",
    "GalleryFile",
    "HeadName",
    "HeadsFolder",
    "Jobs",
    "Log",
    "Memory",
    "NearDuplicates",
    "NewName",
    "OutputFile",
    "Pareto",
    "Picture",
    "PngFile",
    "PredictionFile",
    "SpreadsheetSafe",
    "StartSettings",
    "completer",
    "in_parallel",
    "memory_of",
]


def _ending(*endings: str) -> AfterValidator:
    """Reject a file to write with another ending, such as an image of the user's."""

    def check(file: Path) -> Path:
        if file.suffix.lower() not in endings or file.is_dir():
            raise ValueError
        return file

    return AfterValidator(check)


OutputFile = Annotated[Path, Option(writes=True)]
CsvFile = Annotated[OutputFile, _ending(".csv"), Field(description="a file ending in .csv")]
PngFile = Annotated[OutputFile, _ending(".png"), Field(description="a file ending in .png")]
GalleryFile = Annotated[
    OutputFile, _ending(".html", ".png"), Field(description="a file ending in .html or .png")
]
PredictionFile = Annotated[
    OutputFile, _ending(".csv", ".jsonl"), Field(description="a file ending in .csv or .jsonl")
]
FORMS = {
    "as_json": Annotated[bool, Doc("Print JSON instead of text."), Option("--json")],
    "as_csv": Annotated[bool, Doc("Print CSV instead of text."), Option("--csv")],
    "markdown": Annotated[bool, Doc("Print a Markdown table.")],
    "wide": Annotated[
        bool,
        Doc("Print tables whole, however wide they are."),
        Option(unless=("as_json", "as_csv", "markdown")),
    ],
}
"""Flags for the forms of a result besides text, and for the width of text."""
BankName = Annotated[
    str | None,
    Doc("Name of a bank, or its beginning, such as the model; by default all banks."),
    ARGUMENT,
]
CacheFolder = Annotated[Path, Doc("Folder of the feature cache.")]
HeadName = Annotated[str | None, Doc("Head by name or folder; by default the newest.")]
HeadsFolder = Annotated[Path, Doc("Folder of the fitted heads.")]
Jobs = Annotated[int, Doc("Number of parallel processes; -1 for one per core.")]
Log = Annotated[Path, Doc("Experiment log that 'bottleneck sweep' writes.")]
Memory = Annotated[
    ByteSize | None,
    Doc(
        "Memory limit for features, such as 500MB; by default half of the free memory. softmax, "
        "logreg and svm read larger features in passes."
    ),
]
NearDuplicates = Annotated[
    bool, Doc("Also look for near-duplicate images in different splits; reads all images.")
]
NewName = Annotated[Name | None, Doc("Name of the result; by default a descriptive name.")]
SpreadsheetSafe = Annotated[
    bool,
    Doc("In CSV, put an apostrophe before texts that begin with = + - @, which are formulas else."),
]
_WITH_DATA = Option(needs=("data",))
_REPEATED = {"layers": "layer", "models": "model", "head_names": "head"}
"""Options that may repeat to the kind of their values."""
Pareto = Annotated[
    OutputFile | None,
    Doc("Draw the score of each base against its cost to this file: .png, .svg or .pdf."),
    Option(needs=("by",)),
]
Picture = Annotated[OutputFile | None, Doc("Draw the result to this file: .png, .svg or .pdf.")]


@settings("Folders", kw_only=True)
class Folders:
    """Folders of features and heads."""

    cache: Annotated[CacheFolder, Option(unless=("tta",))] = Path("cache")
    heads: HeadsFolder = Path("heads")


@settings("Experiment", kw_only=True)
class ExperimentSettings:
    """An experiment of a sweep whose features and classifier are taken."""

    experiment: Annotated[
        int | None, Doc("Fit the classifier and layer of this experiment of a sweep.")
    ] = None
    best: Annotated[
        bool,
        Doc("Fit the best experiment of sweeps on these images; other options narrow it."),
        Option(unless=("experiment",)),
    ] = False
    log: Annotated[Log, Option(needs=("experiment", "best"))] = Path("experiments.sqlite")


@settings("Epochs", kw_only=True)
class EpochSettings:
    """Output of the epochs of a training."""

    picture: Picture = None
    tensorboard: Annotated[Path | None, Doc("Log epochs to this folder for TensorBoard.")] = None


@settings("Start", kw_only=True)
class StartSettings(ReadSettings):
    """The start of fine-tuning, and where it runs."""

    head: HeadName = None
    data: Annotated[
        Path | None,
        AfterValidator(lambda path: path and location(path)),
        Doc("Images, as for extract; by default the head's."),
    ] = None
    image_set: Annotated[NewSet, _WITH_DATA] = None
    max_bytes: Annotated[MaxBytes, _WITH_DATA] = None
    min_images: Annotated[MinImages, _WITH_DATA] = 1
    nested: Annotated[Nested, _WITH_DATA] = False
    group_by: Annotated[GroupBy, _WITH_DATA] = None
    resume: Annotated[bool, Doc("Resume the interrupted run of that name.")] = False
    weights: MovedWeights = None
    device: Device = "auto"
    devices: Annotated[
        Count | None, Doc("Processes or GPUs that share each step; by default those of `device`.")
    ] = None


def memory_of(given: int | None) -> int:
    """Return the memory limit for features: by default half of the free memory.

    Parameters
    ----------
    given : int or None
        Memory limit in bytes, if given.

    Returns
    -------
    int
        Bytes.
    """
    from bottleneck.features import free_memory

    return free_memory() // 2 if given is None else given


def in_parallel(jobs: int, backend: str = "loky") -> Any:
    """Return joblib's configuration for a number of processes and a backend.

    Parameters
    ----------
    jobs : int
        Number of processes; -1 for one per core.
    backend : str
        joblib's name of the backend.

    Returns
    -------
    context manager
        joblib's ``parallel_config``.

    Raises
    ------
    UsageError
        `jobs` is 0, or joblib does not have the backend.
    """
    import joblib

    # joblib mistakes the memory of a process that has imported PyTorch for a leak and replaces it.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
    if not jobs:
        raise UsageError("`jobs` must be at least 1, or -1 for one process per core, got 0")
    try:
        return joblib.parallel_config(backend, n_jobs=jobs)
    except (ValueError, ImportError) as error:
        raise UsageError(
            f"joblib has no backend {backend!r} here ({error}); give loky, threading, "
            f"multiprocessing or one that is installed"
        ) from error


def completer(value: Declared, commands: Iterable[str]) -> Callable[..., list[str]]:
    """Return a function that completes the values of an option.

    Parameters
    ----------
    value : Declared
        Its declaration.
    commands : iterable of str
        The names of all commands.

    Returns
    -------
    callable
        As Typer calls it; it returns nothing where no values are known.
    """

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        known = commands if value.name == "command" else value.choices
        try:
            found = known or _names(_REPEATED.get(value.name, value.name), ctx.params)
            return [name for name in found if name.startswith(incomplete)]
        except (BottleneckError, OSError):
            return []

    return complete


def _names(kind: str, typed: dict[str, Any]) -> Iterable[str]:
    """Return the names of a kind, as far as the options that were typed tell them.

    A command that computes features chooses among all bases and layers, another one among those in
    the cache.
    """
    cache, computes = bottleneck.Cache(typed.get("cache") or "cache"), "data" in typed
    if kind == "head":
        from bottleneck.heads import head_names

        return head_names(Path(typed.get("heads") or "heads"))
    if kind == "bank":
        return [bank.name for bank in cache.bank_folders()]
    if kind == "model" and (computes or "cache" not in typed):
        from bottleneck.bases import model_names

        return model_names()
    if kind == "layer" and computes and typed.get("models"):
        from bottleneck.bases import find_model
        from bottleneck.bases.network import Network

        networks = [Network(find_model(model)) for model in typed["models"]]
        return dict.fromkeys(
            name for network in networks for name in (*network.aliases, *network.layers)
        )
    runs = cache.runs(damaged_too=False) if kind in {"model", "layer"} else []
    if kind == "model":
        return {run.model for run in runs}
    return {name for run in runs for each in run.layers for name in (each.layer, *each.aliases)}
