"""Read the files of a saved head, and check that they belong together."""

import hashlib
import reprlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from safetensors.numpy import load

from bottleneck.heads.models import MODELS, Affine, Model, make_model
from bottleneck.heads.names import METADATA_FILE
from bottleneck.heads.recipes import RECIPES
from bottleneck.inputs import read_regular
from bottleneck.names import natural_key
from bottleneck.records import HeadRecord

__all__ = ["contradiction", "read_model", "read_seen"]


def read_model(file: Path, record: HeadRecord) -> Model:
    """Read the model of a head.

    Parameters
    ----------
    file : Path
        ``head.safetensors``.
    record : HeadRecord
        The head's record.

    Returns
    -------
    Model

    Raises
    ------
    OSError, ValueError, KeyError, SafetensorError
        The file cannot be read, or does not belong to the record.
    """
    content = read_regular(file)
    if record.weights_sha256 != hashlib.sha256(content).hexdigest():
        raise ValueError(f"it and {METADATA_FILE} come from different heads")
    return make_model(record, load(content))


def read_seen(file: Path, record: HeadRecord) -> frozenset[str] | None:
    """Return the images that a head has seen.

    Parameters
    ----------
    file : Path
        ``head-seen.txt``.
    record : HeadRecord
        The head's record.

    Returns
    -------
    frozenset of str or None
        None if they are unknown.

    Raises
    ------
    DataError
        The file cannot be read, or does not belong to the record.
    """
    if record.seen_sha256 is None or not file.is_file():
        return None
    try:
        content = read_regular(file)
    except OSError as error:
        raise HeadRecord.refusal(file, error) from error
    if record.seen_sha256 != hashlib.sha256(content).hexdigest():
        wrong = ValueError(f"it and {METADATA_FILE} come from different heads")
        raise HeadRecord.refusal(file, wrong)
    return frozenset(content.decode().split())


def contradiction(record: HeadRecord) -> str:
    """Return a contradiction between the entries of a head's record, or ``""``.

    Parameters
    ----------
    record : HeadRecord
        The record.

    Returns
    -------
    str
    """
    classes, kind = record.classes, record.clf if record.clf in MODELS else Affine.kind
    if record.kind != kind:
        return f"'kind' is {record.kind!r}, expected {kind!r} as 'clf' is {record.clf!r}"
    if len(set(classes)) < len(classes) or not _are_sorted(classes):
        return f"'classes' is {reprlib.repr(list(classes))}, expected different ones, sorted"
    if record.multilabel and not RECIPES[record.clf].multilabel:
        return f"'multilabel' is True, expected False as 'clf' is {record.clf!r}"
    if record.widths and sum(record.widths) != record.n_features:
        return f"'widths' is {list(record.widths)}, expected a sum of {record.n_features}"
    told = {**record.hyperparameters, "multilabel": record.multilabel}
    for name, value in record.settings.items():
        if told.get(name, value) != value:
            return f"{name!r} is {told[name]!r}, expected {value!r} as in 'settings'"
    return ""


def _are_sorted(classes: Sequence[str]) -> bool:
    """Return whether classes are sorted; earlier versions sorted them as texts or as numbers."""
    with suppress(ValueError):
        if (numbers := list(map(float, classes))) == sorted(numbers):
            return True
    return list(classes) in (sorted(classes, key=natural_key), sorted(classes))
