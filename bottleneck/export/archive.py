"""``.zip`` files: the folder of a head that has its base in it."""

import io
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bottleneck.arguments import checked
from bottleneck.bases import find_model, is_finetuned
from bottleneck.bases.archived import (
    ARCHIVE_FILES,
    copy_finetuned,
    is_archived,
    located,
    read_archived,
    write_archived,
)
from bottleneck.bases.attending import AttentionPooling
from bottleneck.bases.finetuned import read_finetuned
from bottleneck.bases.frozen import FrozenBase
from bottleneck.bases.weights import load_weights
from bottleneck.errors import DataError, PathMissingError, first_line, reworded
from bottleneck.export.checking import Runtime
from bottleneck.export.networks import Parts, load_parts
from bottleneck.folders import replaced_folder
from bottleneck.heads import Head
from bottleneck.heads.files import METADATA_FILE, check_head_folder, is_of_head
from bottleneck.heads.head import OWN_FOLDER
from bottleneck.records import public_name, with_parts

__all__ = ["archive_runtime", "made_archive", "unpack_head"]

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of all files, so that the same head gives the same archive."""


def made_archive(parts: Parts, place: Path) -> bytes:
    """Return the bytes of an archive of a head and its base.

    Parameters
    ----------
    parts : Parts
        The head and its base.
    place : Path
        Folder of the head, whose evaluations are taken along.

    Returns
    -------
    bytes

    Raises
    ------
    OSError
        A file cannot be read, or no temporary file be written.
    """
    source, stream = parts.source, io.BytesIO()
    with TemporaryDirectory() as name:
        folder = Path(name)
        weights = public_name(source.parts[0].weights)
        own = with_parts(source, model=OWN_FOLDER, weights=weights)
        replace(parts.head, source=own).write_into(folder)
        for path in place.glob("evaluation-*.json"):
            shutil.copyfile(path, folder / path.name)
        if is_finetuned(source.model):
            tuned = _unpacked(read_finetuned(source.model).base)
            copy_finetuned(Path(source.model), located(source.model, tuned), folder)
        else:
            _write_base(parts.base, weights, folder)
        with zipfile.ZipFile(stream, "w") as archive:
            for path in sorted(each for each in folder.rglob("*") if each.is_file()):
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _EPOCH)
                archive.writestr(entry, path.read_bytes())
    return stream.getvalue()


def _unpacked(model: str) -> str:
    """Return the name of the network of a base that may itself be an exported one."""
    return located(model, read_archived(model).base) if is_archived(model) else model


def _write_base(base: FrozenBase, weights: str, folder: Path) -> None:
    """Write the weights up to the layers of a base, as they were before they were prepared."""
    names = {name for layer in base.layers for name in base.network.tensors(layer)}
    if "map" in base.pools.values():
        names |= AttentionPooling(base.model, base.network.root).tensors.keys()
    _, found = load_weights(find_model(base.model), base.settings.weights)
    state = {name: tensor for name, tensor in found.load().items() if name in names}
    layer, transform = base.layers[-1], found.transform
    model = _unpacked(base.model)
    write_archived(folder, model, weights, state, layer=layer, transform=transform)


@checked
def unpack_head(file: str | Path, folder: str | Path) -> Path:
    """Unpack an exported ``.zip`` as the folder of a head, which finds its base there.

    Parameters
    ----------
    file : str or Path
        The archive.
    folder : str or Path
        Folder for this head only; its name is the head's name.

    Returns
    -------
    Path
        The folder, for `bottleneck.Head.load` and all that takes a head by its path.

    Raises
    ------
    PathMissingError
        There is no such file.
    UsageError
        `folder` already exists and is not a head folder.
    DataError
        The file is damaged or was not exported, or the folder cannot be written.
    """
    source, target = Path(file), Path(folder)
    if not source.is_file():
        raise PathMissingError(f"no file {str(file)!r}; give one that 'bottleneck export' wrote")
    check_head_folder(target)
    told = f"{str(file)!r} cannot be unpacked as an exported head"
    remedy = "give a .zip that 'bottleneck export' wrote"
    with (
        reworded(lambda error: DataError(f"{told} ({first_line(error)}); {remedy}")),
        zipfile.ZipFile(source) as archive,
        replaced_folder(target, _is_own) as new,
    ):
        for entry in archive.infolist():
            if not _is_own(entry.filename) or entry.compress_type != zipfile.ZIP_STORED:
                raise DataError(f"{told} (it holds {entry.filename!r}); {remedy}")
            (new / entry.filename).parent.mkdir(exist_ok=True)
            with archive.open(entry) as stored, (new / entry.filename).open("wb") as stream:
                shutil.copyfileobj(stored, stream)
        if not (new / METADATA_FILE).is_file():
            raise DataError(f"{told} (it has no {METADATA_FILE}); {remedy}")
    return target


def _is_own(name: str) -> bool:
    """Return whether an archive may have a file of that name."""
    return name in ARCHIVE_FILES or (is_of_head(name) and "/" not in name)


def archive_runtime(content: bytes) -> Runtime:
    """Load an archive as another machine does.

    Parameters
    ----------
    content : bytes
        The file.

    Returns
    -------
    callable

    Raises
    ------
    DataError, WeightsError
        The head or its base cannot be loaded.
    """
    import torch

    with TemporaryDirectory() as name:
        file = Path(name, "head.zip")
        file.write_bytes(content)
        parts = load_parts(Head.load(unpack_head(file, Path(name, "head"))))

    def run(batch: np.ndarray) -> np.ndarray:
        return parts.rows(list(torch.from_numpy(batch)))

    return run
