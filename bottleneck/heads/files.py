"""The files of saved heads: their names, and what they hold."""

import hashlib
import os
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load

from bottleneck.arguments import checked
from bottleneck.errors import DataError, UnknownNameError, UsageError, did_you_mean, some_of
from bottleneck.folders import is_leftover, restore_in
from bottleneck.heads.models import MODELS, Affine, Model, make_model
from bottleneck.heads.novelty import Novelty
from bottleneck.heads.recipes import RECIPES
from bottleneck.inputs import read_regular
from bottleneck.names import natural_key
from bottleneck.records import HeadRecord

__all__ = [
    "HISTORY_FILE",
    "METADATA_FILE",
    "MODEL_FILE",
    "NOVELTY",
    "SEEN_FILE",
    "WEIGHTS_FILE",
    "check_head_folder",
    "head_names",
    "is_of_head",
    "no_head",
    "read_files",
]

WEIGHTS_FILE = "head.safetensors"
METADATA_FILE = "head.json"
HISTORY_FILE = "history.csv"
NOVELTY = "novelty."
"""Beginning of the names of arrays that are not the model's."""
SEEN_FILE = "head-seen.txt"
"""The images that the head was fitted or selected on."""
MODEL_FILE = "model.json"
"""File of a fine-tuned model, next to its head."""
_EVALUATION_FILES = "evaluation-*.json"


def is_of_head(name: str) -> bool:
    """Return whether a file in a head's folder goes with the head when that is replaced.

    Parameters
    ----------
    name : str
        Name of the file.

    Returns
    -------
    bool
    """
    own = (METADATA_FILE, WEIGHTS_FILE, HISTORY_FILE, SEEN_FILE)
    return name in own or fnmatchcase(name, _EVALUATION_FILES)


def check_head_folder(folder: Path) -> None:
    """Check that a head can be saved in a folder, before it is fitted.

    Parameters
    ----------
    folder : Path
        The folder, which need not exist.

    Raises
    ------
    UsageError
        It already exists and is not a head folder.
    DataError
        It cannot be written.
    """
    own = [folder / name for name in (METADATA_FILE, WEIGHTS_FILE, MODEL_FILE)]
    empty = folder.is_dir() and not any(folder.iterdir())
    if os.path.lexists(folder) and not empty and not any(path.is_file() for path in own):
        raise UsageError(
            f"{str(folder)!r} already exists and is not a head folder; choose another name for "
            f"the head"
        )
    above = folder.resolve().parent
    place = next(path for path in (above, *above.parents) if os.path.lexists(path))
    if not os.access(place, os.W_OK | os.X_OK):
        raise DataError(
            f"the head cannot be saved as {str(folder)!r}, as {str(place)!r} cannot be written; "
            f"choose another folder with `heads`"
        )


@checked
def head_names(folder: str | Path) -> list[str]:
    """Return the names of the heads saved in a folder.

    Parameters
    ----------
    folder : str or Path
        The folder; it need not exist.

    Returns
    -------
    list of str
        Sorted names.
    """
    restore_in(Path(folder))
    found = {path.parent.name for path in Path(folder).glob(f"*/{METADATA_FILE}")}
    return sorted(name for name in found if not is_leftover(name))


def no_head(name: str, folder: Path) -> UnknownNameError:
    """Return the error for a head that does not exist.

    Parameters
    ----------
    name : str
        Name of the head.
    folder : Path
        The folder of the heads.

    Returns
    -------
    UnknownNameError
    """
    for file in (folder / name, Path(name)):
        if file.suffix.lower() == ".zip" and file.is_file():
            return UnknownNameError(
                f"{str(file)!r} is a file, not the folder of a head; unpack an exported head with "
                f"'unzip {file} -d {folder / file.stem}'"
            )
    if known := head_names(folder):
        near = did_you_mean(Path(name).name, known) or f"; it has {some_of(map(repr, known))}"
    else:
        near = "; 'bottleneck fit-head' creates one"
    return UnknownNameError(f"no head {name!r} in {str(folder)!r}{near}")


def read_files(
    folder: Path, record: HeadRecord
) -> tuple[Model, frozenset[str] | None, Novelty | None]:
    """Read a head's model, the images that it has seen, and what tells new images from these.

    Parameters
    ----------
    folder : Path
        The head's folder.
    record : HeadRecord
        The head's record.

    Returns
    -------
    model : Model
        The model.
    seen : frozenset of str or None
        Digests; None if they are unknown.
    novelty : Novelty or None
        None in older heads.

    Raises
    ------
    DataError
        A file cannot be read, or does not belong to the record, whose entries may also contradict
        each other.
    """
    weights, seen = folder / WEIGHTS_FILE, folder / SEEN_FILE
    with _refused(weights):
        arrays = load(_content(weights, record.weights_sha256))
        own = {name: arrays.pop(name) for name in [*arrays] if name.startswith(NOVELTY)}
        model, novelty = make_model(record, arrays), None
        if own:
            named = {name.removeprefix(NOVELTY): array for name, array in own.items()}
            novelty = Novelty.of(named, record.n_features)
    with _refused(folder / METADATA_FILE):
        _check_entries(record)
    if record.seen_sha256 is None or not seen.is_file():
        return model, None, novelty
    with _refused(seen):
        return model, frozenset(_content(seen, record.seen_sha256).decode().split()), novelty


@contextmanager
def _refused(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise HeadRecord.refusal(file, error) from error


def _content(file: Path, digest: str) -> bytes:
    content = read_regular(file)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"it and {METADATA_FILE} come from different heads")
    return content


def _check_entries(record: HeadRecord) -> None:
    """Raise a `ValueError` if entries of a head's record contradict each other."""
    classes, kind = record.classes, record.clf if record.clf in MODELS else Affine.kind
    if record.kind != kind:
        raise ValueError(f"'kind' is {record.kind!r}, expected {kind!r} as 'clf' is {record.clf!r}")
    if len(set(classes)) < len(classes) or not _are_sorted(classes):
        shown = reprlib.repr(list(classes))
        raise ValueError(f"'classes' is {shown}, expected different ones, sorted")
    if record.multilabel and not RECIPES[record.clf].multilabel:
        raise ValueError(f"'multilabel' is True, expected False as 'clf' is {record.clf!r}")
    if record.widths and sum(record.widths) != record.n_features:
        widths = list(record.widths)
        raise ValueError(f"'widths' is {widths}, expected a sum of {record.n_features}")
    told = {**record.hyperparameters, "multilabel": record.multilabel}
    for name, value in record.settings.items():
        if told.get(name, value) != value:
            raise ValueError(f"{name!r} is {told[name]!r}, expected {value!r} as in 'settings'")


def _are_sorted(classes: Sequence[str]) -> bool:
    """Return whether classes are sorted; earlier versions sorted them as texts or as numbers."""
    with suppress(ValueError):
        if (numbers := list(map(float, classes))) == sorted(numbers):
            return True
    return list(classes) in (sorted(classes, key=natural_key), sorted(classes))
