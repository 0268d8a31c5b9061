"""Files: their names, and small ones that are either whole or absent."""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["atomic_write", "read_json", "slug", "stale_paths", "write_json"]

_STALE_SECONDS = 3600.0


def _fsync_folder(folder: Path) -> None:
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
    _fsync_folder(path.parent)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as JSON, whole or not at all, with a digest of itself as ``sha256``.

    Raises
    ------
    ValueError
        The content holds nan or inf, which JSON does not have.
    """
    sealed = {**content, "sha256": _seal(content)}
    atomic_write(path, json.dumps(sealed, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote, without the digest.

    Raises
    ------
    ValueError
        The file is damaged or has been edited.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.pop("sha256", None) != _seal(content):
        raise ValueError("its content does not match its digest")
    return content


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def slug(name: str) -> str:
    """Return a name with what does not belong into a file's name replaced by ``-``."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)


def stale_paths(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield what killed processes left in a folder: what has not been touched for an hour."""
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):  # its owner removes it just now
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                yield path
