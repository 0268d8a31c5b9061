"""The names of saved heads and of their files."""

import os
from fnmatch import fnmatchcase
from pathlib import Path

from bottleneck.arguments import checked
from bottleneck.errors import DataError, UnknownNameError, UsageError, did_you_mean
from bottleneck.folders import is_leftover, restore_in

__all__ = [
    "HISTORY_FILE",
    "METADATA_FILE",
    "MODEL_FILE",
    "SEEN_FILE",
    "WEIGHTS_FILE",
    "check_head_folder",
    "head_names",
    "is_of_head",
    "no_head",
]

WEIGHTS_FILE = "head.safetensors"
METADATA_FILE = "head.json"
HISTORY_FILE = "history.csv"
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
    near = did_you_mean(Path(name).name, head_names(folder))
    return UnknownNameError(
        f"no head {name!r} in {str(folder)!r}; 'bottleneck fit-head' creates one{near}"
    )
