"""Files: their names, and small ones that are either whole or absent."""

import os
import secrets
from pathlib import Path

__all__ = ["atomic_write", "fsync_folder", "slug"]


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut, where the system can do so."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_write(path: Path, content: str | bytes | memoryview) -> None:
    """Write `content` to `path` so that readers see the old file or the new one, never a part.

    Parameters
    ----------
    path : Path
        Its folder is made if need be.
    content : str, bytes or memoryview
        Text is written as UTF-8.

    Raises
    ------
    OSError
        The folder cannot be written; no temporary file is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def slug(name: str) -> str:
    """Return a name with what does not belong into a file's name replaced by ``-``."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)
