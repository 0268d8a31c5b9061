"""Files that a command is asked to write: what cannot be written is refused before any work."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from os.path import samestat
from pathlib import Path
from typing import Any

import bottleneck
from bottleneck.errors import UsageError
from bottleneck.fields import Declared
from bottleneck.files import check_writable

__all__ = ["check_outputs", "check_picture", "check_writables", "read_images"]


def check_writables(values: Iterable[Declared], given: Mapping[str, Any]) -> None:
    """Check that the files which a command writes can be written.

    Parameters
    ----------
    values : iterable of Declared
        The values of the command.
    given : mapping of str to Any
        Those that were given, by name.

    Raises
    ------
    OSError
        See `bottleneck.files.check_writable`.
    """
    for each in values:
        if each.option.writes and (file := given.get(each.name, each.default)):
            check_writable(Path(file))


def check_outputs(reads: Iterable[str | Path], **outputs: Path | None) -> None:
    """Refuse files to write that would replace what is read, also under another name.

    Parameters
    ----------
    reads : iterable of str or Path
        The files and folders that are read.
    **outputs
        The files to write, by option; None where there is none.

    Raises
    ------
    UsageError
        One of them is a file that is read.
    """
    there = {name: file for name, file in outputs.items() if file and file.exists()}
    for each in reads if there else ():
        with suppress(OSError):  # what cannot be read is told elsewhere
            own = Path(each).stat()
            for name, file in there.items():
                if samestat(own, file.stat()):
                    raise UsageError(
                        f"`{name}` {str(file)!r} is one of the files to read and would be "
                        f"replaced; give another name"
                    )


def read_images(
    paths: Sequence[Path], max_bytes: int | None, **outputs: Path | None
) -> "bottleneck.ImageSet":
    """Read the images that a command is given, none of which may be a file that it writes.

    Parameters
    ----------
    paths : sequence of Path
        Files, folders, archives and tables.
    max_bytes : int or None
        Largest file.
    **outputs
        As for `check_outputs`.

    Returns
    -------
    ImageSet

    Raises
    ------
    UsageError
        As `check_outputs` raises; or as `bottleneck.ImageSet.from_paths` does.
    PathMissingError, DataError
        As `bottleneck.ImageSet.from_paths` raises.
    """
    found = bottleneck.ImageSet.from_paths(paths, max_bytes=max_bytes)
    check_outputs([*paths, *(item.path for item in found.items)], **outputs)
    return found


def check_picture(file: Path | None) -> None:
    """Reject a picture that cannot be drawn, before anything is computed.

    Parameters
    ----------
    file : Path or None
        None if no picture was requested.

    Raises
    ------
    UsageError, MissingExtraError
        See `bottleneck.pictures.check_picture`.
    """
    if file:
        from bottleneck import pictures

        pictures.check_picture(file)
