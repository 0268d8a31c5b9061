"""What a shell offers to complete an option's value."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

from bottleneck.errors import BottleneckError
from bottleneck.fields import Declared

__all__ = ["completer"]


def completer(value: Declared) -> Callable[..., list[str]] | None:
    """Return what lists the values of an option that begin as the one being typed."""
    names = _NAMES.get(value.name)
    if names is None and not value.choices:
        return None

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            found = names(ctx.params) if names else value.choices
            return [name for name in found if name.startswith(incomplete)]
        except (BottleneckError, OSError):
            return []

    return complete


def _models(_: dict[str, Any]) -> Iterable[str]:
    from bottleneck.bases import model_names

    return model_names()


def _layers(typed: dict[str, Any]) -> Iterable[str]:
    """Return the layers of the base that was typed, or those in the cache."""
    if typed.get("model") and "weights" in typed:
        from bottleneck.bases import find_model
        from bottleneck.bases.network import Network

        network = Network(find_model(typed["model"]))
        return [*network.aliases, *network.layers]
    from bottleneck.cache import Cache

    runs = Cache(typed.get("cache") or "cache").runs(damaged_too=False)
    return {name for run in runs for each in run.layers for name in (each.layer, *each.aliases)}


def _heads(typed: dict[str, Any]) -> Iterable[str]:
    from bottleneck.heads import head_names

    return head_names(Path(typed.get("heads") or "heads"))


_NAMES: dict[str, Callable[[dict[str, Any]], Iterable[str]]] = {
    "model": _models,
    "layer": _layers,
    "layers": _layers,
    "head": _heads,
}
