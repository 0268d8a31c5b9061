"""Files that a command is asked to write: what cannot be written is refused before any work."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bottleneck.errors import UsageError
from bottleneck.fields import Declared
from bottleneck.files import check_writable

__all__ = ["check_output", "check_picture", "check_writables"]


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


def check_output(output: Path | None, images: Sequence[Path], *, as_json: bool = False) -> None:
    """Refuse an output that would replace what is read, or whose ending promises another form.

    Parameters
    ----------
    output : Path or None
        None if no file is to be written.
    images : sequence of Path
        The files and folders that are read.
    as_json : bool
        Whether JSON lines are to be written.

    Raises
    ------
    UsageError
        `output` is one of `images`, or a .csv file for JSON lines.
    """
    if output and output.resolve() in {each.resolve() for each in images}:
        raise UsageError(
            f"`output` {str(output)!r} is one of the files to read and would be replaced; give "
            f"another name"
        )
    if output and as_json and output.suffix.lower() == ".csv":
        raise UsageError("`output` ends in .csv, but `json` writes JSON lines; give a .jsonl file")


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
