"""The command that serves heads over HTTP: serve."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_doc import Doc

from bottleneck.cli import choices, notes, options
from bottleneck.cli.command import add_command
from bottleneck.cli.output import show
from bottleneck.cli.streams import note
from bottleneck.errors import UsageError
from bottleneck.fields import ARGUMENT, Option
from bottleneck.settings import ServeSettings

if TYPE_CHECKING:
    from bottleneck.heads import Head

__all__ = ["serve"]


@add_command("serve", "Ship")
def serve(
    settings: ServeSettings,
    heads: options.HeadsFolder = Path("heads"),
    head: Annotated[
        tuple[str, ...],
        Doc("Heads by name or folder; those of one base share it. By default the newest."),
        ARGUMENT,
    ] = (),
    onnx: Annotated[
        tuple[Path, ...],
        Doc("Serve this exported .onnx file in place of heads, without PyTorch; may repeat."),
        Option(unless=("head",)),
    ] = (),
) -> None:
    """Serve heads over HTTP: a page to drop images on, and addresses for programs.

    It answers this machine only, unless --host and --token are given. SIGTERM ends it when all
    requests that have begun are answered.
    """
    from bottleneck.serve import bind, serve_files, serve_heads

    taken, bound = bind(settings)
    with taken:
        named: dict[str, Any] = _named(onnx) if onnx else _chosen(heads, head)
        note(f"loading {', '.join(named)}")

        def ready(address: str) -> None:
            facts = {"address": address, "heads": list(named)}
            told = f"serving {', '.join(named)} on {address}/, for programs see {address}/docs"
            show(facts, lambda: print(told))
            sys.stdout.flush()

        serve = serve_files if onnx else serve_heads
        serve(named, bound, taken, ready=ready)


def _named(files: Sequence[Path]) -> dict[str, Path]:
    """Return files by their names."""
    named = {file.stem: file for file in files}
    if len(named) < len(files):
        raise UsageError("two files with one name cannot be served; give each once")
    return named


def _chosen(folder: Path, names: Sequence[str]) -> "dict[str, tuple[Path, Head]]":
    """Load heads, by their names; by default the newest."""
    found = choices.choose_heads(folder, names, "name another to serve it")
    notes.note_random(any(each.source and each.source.weights_random for _, each in found.values()))
    return found
