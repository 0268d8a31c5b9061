"""Bases in folders of exported heads: weights up to the head's layers, and a record."""

import hashlib
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from bottleneck.bases.finetuned import MODEL_FILES, load_whole, read_finetuned
from bottleneck.bases.hub import Repository
from bottleneck.bases.model_files import Folder, ModelFiles
from bottleneck.bases.models import Model, PretrainedWeights, StateDict, Transform
from bottleneck.files import atomic_write, make_folder
from bottleneck.records import ArchivedBaseRecord, public_name, read_record, write_record

__all__ = [
    "ARCHIVE_FILES",
    "CONFIGS",
    "archived_model",
    "copy_finetuned",
    "is_archived",
    "located",
    "read_archived",
    "write_archived",
]

_RECORD_FILE = "base.json"
_WEIGHTS_FILE = "base.safetensors"
_MODEL_FILE = MODEL_FILES[0]
_REMEDY = "unpack its .zip again"
CONFIGS = (
    *("config.json", "preprocessor_config.json", "processor_config.json"),
    "open_clip_config.json",
)
"""Configurations of networks that the Hub or a folder describes."""
_CONFIG_FOLDER = "config"
ARCHIVE_FILES = (
    *(_RECORD_FILE, _WEIGHTS_FILE, *MODEL_FILES),
    *(f"{_CONFIG_FOLDER}/{name}" for name in CONFIGS),
)
"""Files of a base in the folder of an exported head."""


def is_archived(folder: str | Path) -> bool:
    """Whether a path is the folder of an exported head with its base.

    Parameters
    ----------
    folder : str or Path
        The path, which need not exist.

    Returns
    -------
    bool
    """
    return os.path.isfile(os.path.join(folder, _RECORD_FILE))  # noqa: PTH113, PTH118 - of any text


def read_archived(folder: str | Path) -> ArchivedBaseRecord:
    """Return the record of an exported base.

    Parameters
    ----------
    folder : str or Path
        Its folder.

    Returns
    -------
    ArchivedBaseRecord

    Raises
    ------
    WeightsError
        The record is damaged, or of another version.
    """
    return read_record(Path(folder) / _RECORD_FILE, ArchivedBaseRecord)


def write_archived(
    folder: Path, model: str, weights: str, state: StateDict, *, layer: str, transform: Transform
) -> None:
    """Write a base into the folder of an exported head.

    Parameters
    ----------
    folder : Path
        The folder.
    model, weights : str
        Names of the base and its weights.
    state : dict of str to torch.Tensor
        The weights up to the deepest layer.
    layer : str
        That layer.
    transform : Transform
        The preprocessing that belongs to the weights.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    from safetensors.torch import save

    content = save({name: tensor.contiguous() for name, tensor in state.items()})
    atomic_write(folder / _WEIGHTS_FILE, content)
    record = ArchivedBaseRecord(
        base=public_name(model),
        weights=weights,
        layer=layer,
        transform=transform,
        weights_sha256=hashlib.sha256(content).hexdigest(),
    )
    write_record(folder / _RECORD_FILE, record)
    _copy_configs(model, folder)


def copy_finetuned(source: Path, base: str, folder: Path) -> None:
    """Copy a fine-tuned model into the folder of an exported head, without paths of this machine.

    Parameters
    ----------
    source : Path
        Folder of the model.
    base : str
        Name of the model that was fine-tuned.
    folder : Path
        The folder.

    Raises
    ------
    OSError
        A file cannot be read or written.
    """
    for name in MODEL_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)
    record = read_finetuned(source)
    started = record.started_from
    weights = public_name(started.weights)
    own = replace(started, model=public_name(started.model), weights=weights)
    write_record(folder / _MODEL_FILE, replace(record, base=public_name(base), started_from=own))
    _copy_configs(base, folder)


def _copy_configs(model: str, folder: Path) -> None:
    """Copy what describes the network of a model that is in no library's list."""
    files = _files_of(model)
    for name in CONFIGS if files else ():
        with suppress(OSError):  # not stored here, so that it was not needed
            if files and (path := files.find(name)):
                make_folder(folder / _CONFIG_FOLDER)
                shutil.copyfile(path, folder / _CONFIG_FOLDER / name)


def _files_of(model: str) -> ModelFiles | None:
    prefix, _, place = model.removeprefix("open_clip:").partition(":")
    if prefix == "local-dir" or (prefix == "hf" and Path(place).is_dir()):
        return Folder(place, model)
    return Repository(place, model) if prefix in {"hf-hub", "hf"} else None


def located(folder: str, model: str) -> str:
    """Return the name of a base whose network is described by files beside it.

    Parameters
    ----------
    folder : str
        Folder of an exported head.
    model : str
        Name of its base where it was exported.

    Returns
    -------
    str
        The same name, if a library describes the network.
    """
    configs = Path(folder, _CONFIG_FOLDER)
    prefix, _, _ = model.removeprefix("open_clip:").partition(":")
    if prefix not in {"hf-hub", "local-dir", "hf"} or not configs.is_dir():
        return model
    tower = "open_clip:" if model.startswith("open_clip:") else ""
    return f"{tower}{'hf' if prefix == 'hf' else 'local-dir'}:{configs}"


def archived_model(folder: str, record: ArchivedBaseRecord, base: Model) -> Model:
    """Return an exported base, named by its folder's path.

    Parameters
    ----------
    folder : str
        Path as given by the user.
    record : ArchivedBaseRecord
        The result of `read_archived`.
    base : Model
        The model that was exported.

    Returns
    -------
    Model
        Its weights are read when the network is built.
    """
    transform = Transform(**vars(record.transform))
    files = Path(folder, _WEIGHTS_FILE), record.weights_sha256, _RECORD_FILE, _REMEDY
    weights = PretrainedWeights(partial(load_whole, *files), transform, folder, _WEIGHTS_FILE)
    return replace(
        base,
        name=folder,
        transform=transform,
        weights={record.weights: weights},
        default_layer=record.layer,
    )
