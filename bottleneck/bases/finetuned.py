"""Fine-tuned models: a folder with all weights and a record."""

import hashlib
import os
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from bottleneck.bases.models import Model, PretrainedWeights, StateDict, Transform
from bottleneck.errors import WeightsError, first_line, reworded
from bottleneck.files import atomic_write
from bottleneck.folders import restored
from bottleneck.inputs import read_regular
from bottleneck.records import ModelFacts, ModelRecord, read_record, write_record
from bottleneck.records.banks import FINETUNED

__all__ = [
    "MODEL_FILES",
    "WEIGHTS_NAME",
    "digests_of_network",
    "finetuned_model",
    "is_finetuned",
    "load_whole",
    "read_finetuned",
    "seen_digests",
    "write_finetuned",
]

WEIGHTS_NAME = FINETUNED
"""Name of the weights of a fine-tuned model."""

_RECORD_FILE = "model.json"
_WEIGHTS_FILE = "model.safetensors"
_SEEN_FILE = "seen.txt"
MODEL_FILES = (_RECORD_FILE, _WEIGHTS_FILE, _SEEN_FILE)
"""Files of a model in its folder, besides those of its head."""


def is_finetuned(folder: str | Path) -> bool:
    """Whether a path is the folder of a fine-tuned model.

    Parameters
    ----------
    folder : str or Path
        The path, which need not exist.

    Returns
    -------
    bool
        True if it is a folder with ``model.json``.
    """
    if Path(folder).parent.parts:  # not just a word, such as the name of a built-in model
        with suppress(OSError, ValueError):  # a text that cannot be a path
            restored(Path(folder))
    return os.path.isfile(os.path.join(folder, _RECORD_FILE))  # noqa: PTH113, PTH118 - of any text


def write_finetuned(
    folder: str | Path,
    model: Model,
    state: StateDict,
    *,
    transform: Transform,
    facts: ModelFacts,
    seen: Collection[str],
) -> None:
    """Write the files of a fine-tuned model into a folder.

    Parameters
    ----------
    folder : str or Path
        The target folder.
    model : Model
        The model that was fine-tuned, which may itself be a fine-tuned model.
    state : dict of str to torch.Tensor
        All weights of the architecture.
    transform : Transform
        The preprocessing used in training.
    facts : ModelFacts
        Further entries of the record.
    seen : collection of str
        SHA-256 of the images that it was trained or validated on.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    from safetensors.torch import save

    digests = sorted({*seen, *seen_digests(model.name)})
    content = save({name: tensor.contiguous() for name, tensor in state.items()})
    path = Path(folder)
    record = ModelRecord(
        **vars(facts),
        base=read_finetuned(model.name).base if is_finetuned(model.name) else model.name,
        architecture=model.architecture,
        transform=transform,
        weights_sha256=hashlib.sha256(content).hexdigest(),
    )
    atomic_write(path / _SEEN_FILE, "".join(f"{digest}\n" for digest in digests))
    atomic_write(path / _WEIGHTS_FILE, content)
    write_record(path / _RECORD_FILE, record)


def read_finetuned(folder: str | Path) -> ModelRecord:
    """Return the record of a fine-tuned model.

    Parameters
    ----------
    folder : str or Path
        The model's folder.

    Returns
    -------
    ModelRecord

    Raises
    ------
    WeightsError
        The record is damaged, or of another version.
    """
    return read_record(Path(folder) / _RECORD_FILE, ModelRecord)


def seen_digests(model: str) -> frozenset[str]:
    """Return the images that a model was fine-tuned on.

    Scores on them are too optimistic, even for heads that were not fitted on them.

    Parameters
    ----------
    model : str
        Name of the model.

    Returns
    -------
    frozenset of str
        SHA-256 of the images that it was trained or validated on; empty unless it is a fine-tuned
        model.

    Raises
    ------
    WeightsError
        The list is damaged.
    """
    path = Path(model) / _SEEN_FILE
    if not is_finetuned(model) or not path.exists():
        return frozenset()
    try:
        text = read_regular(path).decode("ascii")
    except (OSError, ValueError) as error:
        raise WeightsError(f"{str(path)!r} cannot be read ({error}); fine-tune again") from error
    if not re.fullmatch("(?:[0-9a-f]{64}\\s+)*", text):
        raise WeightsError(f"{str(path)!r} is damaged, expected digests; fine-tune again")
    return frozenset(text.split())


def digests_of_network(model: str) -> frozenset[str]:
    """Return the images that a fine-tuned model's network was trained or validated on.

    Parameters
    ----------
    model : str
        Name of the model.

    Returns
    -------
    frozenset of str
        As `seen_digests`; but empty if no epoch was better than the network at the start, which
        was then saved unchanged.

    Raises
    ------
    WeightsError
        The list or the record is damaged.
    """
    if is_finetuned(model):
        record = read_finetuned(model)
        if not record.best_epoch and record.started_from.weights != WEIGHTS_NAME:
            return frozenset()
    return seen_digests(model)


def finetuned_model(folder: str, record: ModelRecord, base: Model) -> Model:
    """Return a fine-tuned model, named by its folder's path.

    Parameters
    ----------
    folder : str
        Path as given by the user.
    record : ModelRecord
        The result of `read_finetuned`.
    base : Model
        The model that was fine-tuned.

    Returns
    -------
    Model
        Its weights are read when the network is built.
    """
    transform = Transform(**vars(record.transform))
    file = Path(folder) / _WEIGHTS_FILE
    load = partial(load_whole, file, record.weights_sha256, _RECORD_FILE, "fine-tune again")
    return replace(
        base,
        name=folder,
        # The network is built for the original image size, whatever the size used in training.
        build=lambda _: base.build(base.transform.crop),
        transform=transform,
        weights={WEIGHTS_NAME: PretrainedWeights(load, transform, folder, _WEIGHTS_FILE)},
        default_layer=record.layer,
    )


def load_whole(path: Path, sha256: str, record: str, remedy: str) -> StateDict:
    """Read weights that belong to a record.

    Parameters
    ----------
    path : Path
        The file.
    sha256 : str
        SHA-256 of its bytes, as the record has it.
    record, remedy : str
        Name of the record's file, and what to do if they do not fit, for messages.

    Returns
    -------
    dict of str to torch.Tensor

    Raises
    ------
    WeightsError
        The file is missing or damaged, or another record's.
    """
    from safetensors.torch import load

    try:
        content = read_regular(path)
    except OSError as error:
        raise WeightsError(
            f"the weights {str(path)!r} cannot be read ({error.strerror}); {remedy}"
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise WeightsError(
            f"{path.name} and {record} in {str(path.parent)!r} do not belong together; {remedy}"
        )
    damaged = f"the weights {str(path)!r} cannot be read"
    with reworded(lambda error: WeightsError(f"{damaged} ({first_line(error)}); {remedy}")):
        return load(content)
