"""The command that serves heads over HTTP: serve."""

import sys
from pathlib import Path
from typing import Annotated

from annotated_doc import Doc

from bottleneck.cli import choices, notes, options
from bottleneck.cli.command import add_command
from bottleneck.cli.output import show
from bottleneck.cli.streams import note
from bottleneck.fields import ARGUMENT
from bottleneck.settings import ServeSettings

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
) -> None:
    """Serve heads over HTTP: a page to drop images on, and addresses for programs.

    It answers this machine only, unless --host and --token are given. SIGTERM ends it when all
    requests that have begun are answered.
    """
    from bottleneck.serve import bind, serve_heads

    taken, bound = bind(settings)
    with taken:
        named = choices.choose_heads(heads, head, "name another to serve it")
        sources = [fitted.source for _, fitted in named.values()]
        notes.note_random(any(each and each.weights_random for each in sources))
        note(f"loading {', '.join(named)}")

        def ready(address: str) -> None:
            facts = {"address": address, "heads": list(named)}
            told = f"serving {', '.join(named)} on {address}/, for programs see {address}/docs"
            show(facts, lambda: print(told))
            sys.stdout.flush()

        serve_heads(named, bound, taken, ready=ready)
