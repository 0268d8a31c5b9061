"""Options that several commands have besides the settings of their stage."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from annotated_doc import Doc

import bottleneck
from bottleneck.errors import BottleneckError, UsageError
from bottleneck.fields import Declared, Option, settings
from bottleneck.settings.values import ByteSize, Count, Device, MovedWeights, Name, NewSet

if TYPE_CHECKING:
    from bottleneck.records import Extraction

__all__ = [
    "AsJson",
    "BankName",
    "CacheFolder",
    "EpochSettings",
    "Folders",
    "HeadName",
    "HeadsFolder",
    "Jobs",
    "Log",
    "Memory",
    "NearDuplicates",
    "NewName",
    "Picture",
    "StartSettings",
    "check_picture",
    "completer",
    "in_parallel",
    "memory_of",
]

AsJson = Annotated[bool, Doc("Print JSON instead of text."), Option("--json")]
BankName = Annotated[
    str | None,
    Doc("Name of a bank, or its beginning, such as the model; by default all banks."),
    Option(argument=True),
]
CacheFolder = Annotated[Path, Doc("Folder of the feature cache.")]
HeadName = Annotated[
    str | None, Doc("Name or folder of the head; required where there are several.")
]
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
Picture = Annotated[Path | None, Doc("Draw the result to this file: .png, .svg or .pdf.")]


@settings("Folders", kw_only=True)
class Folders:
    """Folders of features and heads."""

    cache: CacheFolder = Path("cache")
    heads: HeadsFolder = Path("heads")


@settings("Epochs", kw_only=True)
class EpochSettings:
    """Output of the epochs of a training."""

    picture: Picture = None
    tensorboard: Annotated[Path | None, Doc("Log the epochs to this folder for TensorBoard.")] = (
        None
    )


@settings("Start", kw_only=True)
class StartSettings:
    """The start of fine-tuning, and where it runs."""

    head: HeadName = None
    data: Annotated[
        Path | None, Doc("Images, as for extract; by default those the head was fitted on.")
    ] = None
    image_set: NewSet = None
    resume: Annotated[bool, Doc("Resume the interrupted run of that name.")] = False
    weights: MovedWeights = None
    device: Device = "auto"
    devices: Annotated[
        Count | None, Doc("Processes or GPUs that share each step; by default those of `device`.")
    ] = None


def check_picture(file: Path | None) -> None:
    """Reject a picture that cannot be drawn, before anything is computed.

    Parameters
    ----------
    file : Path or None
        None if no picture was requested.

    Raises
    ------
    UsageError, MissingExtraError
        See `bottleneck.pictures.check_picture`.
    """
    if file:
        from bottleneck import pictures

        pictures.check_picture(file)


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


def completer(value: Declared, commands: Iterable[str]) -> Callable[..., list[str]] | None:
    """Return a function that completes the values of an option.

    Parameters
    ----------
    value : Declared
        Its declaration.
    commands : iterable of str
        The names of all commands.

    Returns
    -------
    callable or None
        As Typer calls it; None if there is nothing to complete.
    """
    names = (lambda _: commands) if value.name == "command" else _NAMES.get(value.name)
    if names is None and not value.choices:
        return None

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            found = names(ctx.params) if names else value.choices
            return [name for name in found if name.startswith(incomplete)]
        except (BottleneckError, OSError):
            return []

    return complete


def _models(typed: dict[str, Any]) -> Iterable[str]:
    """Return the bases, or those in the cache for a command that chooses among these."""
    from bottleneck.bases import model_names

    chosen = "cache" in typed and "weights" not in typed
    return {run.model for run in _runs(typed)} if chosen else model_names()


def _layers(typed: dict[str, Any]) -> Iterable[str]:
    """Return the layers of the base that was typed, or those in the cache."""
    if typed.get("model") and "weights" in typed:
        from bottleneck.bases import find_model
        from bottleneck.bases.network import Network

        network = Network(find_model(typed["model"]))
        return [*network.aliases, *network.layers]
    layers = [each for run in _runs(typed) for each in run.layers]
    return {name for each in layers for name in (each.layer, *each.aliases)}


def _cache(typed: dict[str, Any]) -> "bottleneck.Cache":
    return bottleneck.Cache(typed.get("cache") or "cache")


def _runs(typed: dict[str, Any]) -> "Sequence[Extraction]":
    return _cache(typed).runs(damaged_too=False)


def _heads(typed: dict[str, Any]) -> Iterable[str]:
    from bottleneck.heads import head_names

    return head_names(Path(typed.get("heads") or "heads"))


_NAMES: dict[str, Callable[[dict[str, Any]], Iterable[str]]] = {
    "model": _models,
    "layer": _layers,
    "layers": _layers,
    "head": _heads,
    "bank": lambda typed: [bank.name for bank in _cache(typed).bank_folders()],
}
