"""Files of models: their configuration and their weights, in a folder or a repository."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Protocol

from bottleneck.errors import (
    PathMissingError,
    UnknownNameError,
    WeightsError,
    first_line,
    reworded,
)
from bottleneck.inputs import read_regular

__all__ = [
    "Folder",
    "ModelFiles",
    "described",
    "found",
    "read_config",
    "read_tensors",
    "weights_file",
]


class ModelFiles(Protocol):
    """The files of a model.

    Attributes
    ----------
    name : str
        Name of the model as given by the user.
    place : str
        The folder that the files are read from.
    """

    name: str
    place: str

    def find(self, *names: str) -> Path | None:
        """Return the first of some files that exists.

        Parameters
        ----------
        *names : str
            Names of files, the preferred one first.

        Returns
        -------
        Path or None
            None if the model has none of them.

        Raises
        ------
        OSError
            A file is not stored locally, and it cannot be downloaded.
        """


class Folder:
    """A folder with the files of a model, as `ModelFiles`.

    Parameters
    ----------
    path : str
        The folder.
    name : str
        Name of the model as given by the user.

    Raises
    ------
    PathMissingError
        It does not exist, or is not a folder.
    """

    def __init__(self, path: str, name: str) -> None:
        self.name, self.place = name, path
        if not os.path.isdir(path):  # noqa: PTH112 - of any text
            raise PathMissingError(
                f"no folder {path!r} for the model {name!r}; give the path of a folder with the "
                f"model's config.json and weights"
            )

    def find(self, *names: str) -> Path | None:
        """See `ModelFiles.find`."""
        paths = (Path(self.place, name) for name in names)
        return next((path for path in paths if path.is_file()), None)


def read_config(files: ModelFiles, name: str) -> dict[str, Any]:
    """Read a JSON file of a model.

    Parameters
    ----------
    files : ModelFiles
        The model's files.
    name : str
        Name of the file.

    Returns
    -------
    dict of str to Any

    Raises
    ------
    UnknownNameError
        The model has no such file.
    WeightsError
        The file cannot be downloaded, or is damaged.
    """
    path = found(files, name)
    if path is None:
        raise UnknownNameError(
            f"no model {files.name!r}: it has no {name} in {files.place!r}; give a folder or a "
            f"repository that has one"
        )
    try:
        content = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{str(path)!r} cannot be read ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{str(path)!r} holds a {type(content).__name__}, expected an object")
    return content


def weights_file(files: ModelFiles, *names: str) -> Path:
    """Return the first of some files that exists.

    Parameters
    ----------
    files : ModelFiles
        The model's files.
    *names : str
        Names of files, the preferred one first.

    Returns
    -------
    Path

    Raises
    ------
    OSError
        A file is not stored locally, and it cannot be downloaded.
    WeightsError
        The model has none of them.
    """
    path = files.find(*names)
    if path is None:
        raise WeightsError(
            f"{files.name} has no weights in {files.place!r}: expected {names[0]}; or give a file "
            f"with `weights=FILE`"
        )
    return path


def found(files: ModelFiles, *names: str) -> Path | None:
    """Return the first of some files that exists, as `ModelFiles.find`.

    Parameters
    ----------
    files : ModelFiles
        The model's files.
    *names : str
        Names of files, the preferred one first.

    Returns
    -------
    Path or None

    Raises
    ------
    WeightsError
        A file is not stored locally, and it cannot be downloaded.
    """
    try:
        return files.find(*names)
    except OSError as error:
        raise WeightsError(
            f"{names[0]} of {files.name} is not in {files.place} and cannot be downloaded "
            f"({first_line(error)}); run once with a network, or copy that folder from a machine "
            f"that has it"
        ) from error


def described(name: str, arguments: object) -> str:
    """Return the name of an architecture, with a digest of its arguments if it has any.

    Parameters
    ----------
    name : str
        Name of the architecture, with its library.
    arguments : object
        JSON values that decide what the network computes with given weights.

    Returns
    -------
    str
    """
    if not arguments:
        return name
    text = json.dumps(arguments, sort_keys=True, default=str)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def read_tensors(file: Path) -> dict[Any, Any]:
    """Read a file of weights without running pickled code.

    Parameters
    ----------
    file : Path
        What `torch.save` has written, or ``.safetensors``.

    Returns
    -------
    dict
        A state dict, possibly inside other dictionaries.

    Raises
    ------
    WeightsError
        It is damaged, or contains something other than tensors.
    """
    import torch
    from safetensors.torch import load_file

    damaged = f"weights file {str(file)!r} cannot be read as plain tensors"
    expected = "expected a state dict saved by torch.save, or a .safetensors file"
    # Damaged bytes make the readers raise whatever they meet.
    with reworded(lambda error: WeightsError(f"{damaged} ({type(error).__name__}); {expected}")):
        content: Any = (
            load_file(file)
            if file.suffix.lower() == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    if not isinstance(content, dict) or not content:
        raise WeightsError(
            f"weights file {str(file)!r} holds a {type(content).__name__}, expected a state dict: "
            f"save it with torch.save(model.state_dict(), FILE)"
        )
    return content
