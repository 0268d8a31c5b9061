"""Files of models: in a folder, or in a repository of the Hugging Face Hub, cached or downloaded.

What is in the Hub's local cache is used as it is, without asking the Hub. All files of a repository
are of one commit.
"""

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any, Protocol

from bottleneck.errors import (
    PathMissingError,
    UnknownNameError,
    UsageError,
    WeightsError,
    first_line,
    reworded,
)
from bottleneck.inputs import read_regular

__all__ = [
    "Folder",
    "ModelFiles",
    "Repository",
    "described",
    "found",
    "read_config",
    "read_tensors",
    "weights_file",
]

_PATIENCE = 1.5
"""Seconds to wait for the Hub's first answer, unless HF_HUB_ETAG_TIMEOUT is set."""


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


class Repository:
    """A repository of the Hugging Face Hub, as `ModelFiles`.

    Parameters
    ----------
    repository : str
        ``ORG/NAME``, or ``ORG/NAME@REVISION`` for a branch, tag or commit.
    name : str
        Name of the model as given by the user.

    Raises
    ------
    UsageError
        The Hub has no such names.
    """

    def __init__(self, repository: str, name: str) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.constants import HF_HUB_CACHE

        self.name = name
        self._id, _, revision = repository.partition("@")
        self._revision = revision or "main"
        try:
            hf_hub_url(self._id, "config.json")
        except ValueError as error:
            raise UsageError(
                f"{name!r} does not name a repository of the Hugging Face Hub; expected ORG/NAME "
                f"or ORG/NAME@REVISION"
            ) from error
        self._cache = str(HF_HUB_CACHE)
        self.place = str(Path(self._cache, f"models--{self._id.replace('/', '--')}"))

    def find(self, *names: str) -> Path | None:
        """See `ModelFiles.find`."""
        return next((path for path in map(self._get, names) if path), None)

    def _get(self, file: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(
            self._id, file, cache_dir=self._cache, revision=self._revision
        )
        path = cached if cached is None or isinstance(cached, str) else ""
        path = self._downloaded(file) if path is None else path
        if not path:
            return None
        # All other files must be of the same commit, even if the branch moves on.
        self._revision = Path(path).relative_to(self.place, "snapshots").parts[0]
        return Path(path)

    def _downloaded(self, file: str) -> str:
        """Download a file of the repository; return its path, or ``""`` if there is none."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        patience = HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else _PATIENCE
        url = hf_hub_url(self._id, file, revision=self._revision)
        unknown = f"the Hugging Face Hub has no repository {self._id!r} for {self.name!r}"
        try:
            # `hf_hub_download` alone would retry for half a minute where there is no network.
            _within(patience, lambda: get_hf_file_metadata(url))
            revision = self._revision
            return hf_hub_download(self._id, file, cache_dir=self._cache, revision=revision)
        except LocalEntryNotFoundError as error:  # the network failed meanwhile
            raise OSError(_reason(error)) from error
        except GatedRepoError as error:
            raise WeightsError(
                f"{self.name} needs an agreement to its terms: accept them on the repository's "
                f"page, then log in with 'hf auth login'"
            ) from error
        except RevisionNotFoundError as error:
            raise UnknownNameError(f"{self._id!r} has no revision {self._revision!r}") from error
        except RepositoryNotFoundError as error:
            raise UnknownNameError(
                f"{unknown}, or it is private; check the name, or log in with 'hf auth login'"
            ) from error
        except EntryNotFoundError:
            return ""
        except Exception as error:  # of several libraries, by the version of huggingface_hub
            raise OSError(_reason(error)) from error


def _within(seconds: float, work: Any) -> Any:
    """Return the result of `work`; raise `TimeoutError` if it takes longer.

    A time limit of the connection would not cover the look-up of the host's name.
    """
    done: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            done.append((work(), None))
        except Exception as error:  # noqa: BLE001 - raised by the caller
            done.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not done:
        raise TimeoutError(
            f"no answer within {seconds:g} s, set HF_HUB_ETAG_TIMEOUT to wait for more seconds"
        )
    result, error = done[0]
    if error:
        raise error
    return result


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import OfflineModeIsEnabled

    return "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) else first_line(error)


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
