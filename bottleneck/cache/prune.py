"""Pruning: what a cache need not keep."""

import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bottleneck.cache.banks import Bank
from bottleneck.cache.compact import drop_layer
from bottleneck.cache.folder import Cache
from bottleneck.cache.parts import errors_of
from bottleneck.errors import UsageError
from bottleneck.files import move, stale_paths

__all__ = ["Prunable", "find_prunable", "prune"]

_LEFTOVER = ".pruned-"


@dataclass(frozen=True)
class Prunable:
    """A layer's features in a bank.

    Attributes
    ----------
    bank, model, layer : str
        What they are.
    bytes : int
        What they take on disk.
    last_extracted : str
        When an extraction last computed or reused them, in ISO format.
    """

    bank: str
    model: str
    layer: str
    bytes: int
    last_extracted: str


def find_prunable(
    cache: Cache,
    *,
    model: str | None = None,
    layer: str | None = None,
    older_than: timedelta | None = None,
    keep_bytes: int | None = None,
) -> list[Prunable]:
    """Choose what to remove: what meets all conditions given.

    Parameters
    ----------
    cache : Cache
        Nothing of it is changed.
    model, layer : str, optional
        Of this model, or bank; of this layer, by its name or alias.
    older_than : timedelta, optional
        Not extracted, nor reused by an extraction, for so long.
    keep_bytes : int, optional
        Only as much as makes the banks no bigger than this, the longest unused first.

    Raises
    ------
    UsageError
        No condition is given, or no bank or layer has that name.
    CacheError
        A file cannot be read.
    """
    if model is None and layer is None and older_than is None and keep_bytes is None:
        raise UsageError(
            "nothing to prune by; give --model, --layer, --older-than or --keep, with --dry-run to "
            "see first what would go"
        )
    banks = cache.banks() if model is None else cache.find_banks(model)
    known = _last_extracted(cache)
    found = [each for bank in banks for each in _layers(bank, layer, known)]
    if layer is not None and not found:
        raise UsageError(
            f"no layer {layer!r} in {len(banks)} banks; 'bottleneck cache ls' lists them"
        )
    if older_than is not None:
        limit = datetime.now(UTC) - older_than
        found = [each for each in found if datetime.fromisoformat(each.last_extracted) <= limit]
    if keep_bytes is None:
        return found
    excess = sum(bank.size for bank in cache.banks()) - keep_bytes
    chosen = []
    for each in sorted(found, key=lambda each: each.last_extracted):
        if excess <= 0:
            break
        chosen.append(each)
        excess -= each.bytes
    return chosen


def prune(cache: Cache, chosen: Sequence[Prunable]) -> None:
    """Remove what `find_prunable` found. A kill meanwhile leaves what is not yet removed whole.

    Raises
    ------
    CacheError
        A file cannot be removed, or a part that has other layers is damaged.
    """
    for path in stale_paths(cache.root, f"{_LEFTOVER}*"):
        shutil.rmtree(path, ignore_errors=True)
    for name in dict.fromkeys(each.bank for each in chosen):
        bank = cache.named(name)
        layers = {each.layer for each in chosen if each.bank == name}
        if layers >= set(bank.info["layers"]):
            gone = cache.root / f"{_LEFTOVER}{name}-{secrets.token_hex(4)}"
            with errors_of(bank.path):
                move(bank.path, gone)
                shutil.rmtree(gone)
        else:
            for layer in sorted(layers):
                drop_layer(bank, layer)


def _layers(bank: Bank, layer: str | None, known: dict[tuple[str, str], str]) -> list[Prunable]:
    info = bank.info
    return [
        Prunable(
            bank=bank.name,
            model=info["model"],
            layer=name,
            bytes=_bytes_of(bank, name),
            last_extracted=known.get((bank.name, name), info["created"]),
        )
        for name, details in info["layers"].items()
        if layer in {None, name, details["alias"]}
    ]


def _bytes_of(bank: Bank, layer: str) -> int:
    """Return a layer's share of the bytes of the parts in which it stands."""
    total = 0.0
    for part in bank.parts():
        if layer in part.layers:
            width = sum(each.width for each in part.layers.values())
            total += part.path.stat().st_size * part.layers[layer].width / width
    return round(total)


def _last_extracted(cache: Cache) -> dict[tuple[str, str], str]:
    """Return when each (bank, layer) was last part of an extraction."""
    return {
        (layer["bank"], layer["layer"]): run["time"]
        for run in cache.runs()
        for layer in run["layers"]
    }
