"""Remove features that are no longer needed, and nothing else."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path

from bottleneck.arguments import find_layers
from bottleneck.cache.banks import Bank
from bottleneck.cache.folder import Cache
from bottleneck.cache.hdf5 import errors_of
from bottleneck.cache.own import own_files
from bottleneck.cache.upkeep import alone, drop_layer
from bottleneck.errors import (
    CacheError,
    UnknownNameError,
    UsageError,
    counted,
    did_you_mean,
    some_of,
)
from bottleneck.records import IMPORTED, Extraction

__all__ = ["Prunable", "find_prunable", "prune"]

_Key = tuple[str | None, str | None]
"""Names of a bank and a layer."""


@dataclass(frozen=True)
class Prunable:
    """A layer's features in a bank.

    Attributes
    ----------
    bank, model : str
        Names of the bank and its model.
    layer, alias : str or None
        The layer's own name, and the one to show; None if the bank cannot be read and can only be
        removed as a whole.
    bytes : int
        Size on disk, without what is elsewhere, behind a link, and stays there.
    last_extracted : str
        Time at which an extraction last computed, reused or stored them, in ISO format.
    imported : bool
        Whether they were imported from an array, and so cannot be computed again.
    linked : bool
        Whether some of their files are elsewhere, so that only links to them are removed.
    aliases : list of str
        All names of the layer besides its own.
    """

    bank: str
    model: str
    layer: str | None
    alias: str | None
    bytes: int
    last_extracted: str
    imported: bool = False
    linked: bool = False
    aliases: Sequence[str] = ()

    def is_named(self, layer: str) -> bool:
        """Return whether the layer has this name or alias, or is in this module."""
        return self.layer is not None and bool(find_layers(layer, {self.layer: self.aliases}))


def find_prunable(
    cache: Cache,
    *,
    model: str | None = None,
    layer: str | None = None,
    older_than: timedelta | None = None,
    keep_bytes: int | None = None,
    imported: bool = False,
) -> list[Prunable]:
    """Choose what to remove: everything that meets all conditions.

    Parameters
    ----------
    cache : Cache
        The cache; it is not changed.
    model, layer : str, optional
        Only this exact model, or bank; only this layer, by name or alias, or layers of this module.
    older_than : timedelta, optional
        Only what no extraction has computed or reused for this long.
    keep_bytes : int, optional
        Only the oldest extractions, until the rest of the banks fits this size.
    imported : bool
        Also features of imported arrays, which cannot be computed again.

    Returns
    -------
    list of Prunable
        Items for `prune`; unreadable banks as a whole.

    Raises
    ------
    UsageError
        No condition is given, no bank or layer has that name, or all that have it are imported.
    CacheError
        A file cannot be read.
    """
    if model is None and layer is None and older_than is None and keep_bytes is None:
        raise UsageError(
            "no condition for what to remove; give `model`, `layer`, `older_than` or "
            "`keep_bytes`; with `dry_run`, nothing is removed, only listed"
        )
    banks, runs = cache.bank_folders(), cache.runs(damaged_too=False)
    last = _last_extracted(runs)
    imported_banks = {name for run in runs if run.is_imported for name, _ in _keys(run)}
    everything = [
        each for bank in banks for each in _layers(bank, last, imported=bank.name in imported_banks)
    ]
    found = _named(everything, model, layer)
    kept = [] if imported else [each for each in found if each.imported]
    if kept == found and kept and (model or layer):
        raise UsageError(
            f"the features in {some_of(dict.fromkeys(each.bank for each in kept))} were imported "
            f"and cannot be computed again; give `imported` to remove them nevertheless"
        )
    found = [each for each in found if each not in kept]
    if older_than is not None:
        limit = datetime.now(UTC) - older_than
        found = [each for each in found if datetime.fromisoformat(each.last_extracted) <= limit]
    if keep_bytes is None:
        return found
    found = sorted((each for each in found if each.bytes), key=lambda each: each.last_extracted)
    excess = sum(sum(_sizes(bank).values()) for bank in banks) - keep_bytes
    gone = accumulate((each.bytes for each in found), initial=0)
    return [each for each, before in zip(found, gone, strict=False) if before < excess]


def _named(everything: list[Prunable], model: str | None, layer: str | None) -> list[Prunable]:
    """Return the items of a model or bank and of a layer."""
    models = {each.model for each in everything}
    if model is not None and model not in models | {each.bank for each in everything}:
        raise UnknownNameError(
            f"no bank of model {model!r}; 'bottleneck cache ls' lists the "
            f"banks{did_you_mean(model, models)}"
        )
    of_model = [each for each in everything if model in {None, each.model, each.bank}]
    found = [each for each in of_model if layer is None or each.is_named(layer)]
    if layer is not None and not found:
        raise UnknownNameError(
            f"none of {counted(len({each.bank for each in of_model}), 'bank')} has a layer "
            f"{layer!r}; 'bottleneck cache ls' lists the layers"
        )
    return found


def _last_extracted(runs: Sequence[Extraction]) -> dict[_Key, str]:
    """Return for each bank and layer when it was last extracted, by a clock that never goes back.

    Records are in their order, whatever the computer's clock said.
    """
    clock = accumulate((run.time for run in runs), max)
    return {key: time for run, time in zip(runs, clock, strict=True) for key in _keys(run)}


def _keys(run: Extraction) -> list[_Key]:
    """Return the banks and layers that an extraction used."""
    banks = [(each.bank, each.layer) for each in run.layers]
    return [*banks, *((each.view_bank, each.layer) for each in run.layers if each.view_bank)]


def prune(cache: Cache, chosen: Sequence[Prunable]) -> list[Path]:
    """Remove the items from `find_prunable`; an interruption leaves the remaining items intact.

    A link to a bank is removed, and what it leads to is left alone. So are files and folders that
    the cache did not write.

    Parameters
    ----------
    cache : Cache
        The cache, or its folder.
    chosen : sequence of Prunable
        Items to remove.

    Returns
    -------
    list of Path
        What is left in the folders of removed banks, as the cache did not write it.

    Raises
    ------
    CacheError
        A file cannot be removed, a part that has other layers is damaged, or a layer's bank is
        elsewhere, behind a link.
    """
    left: list[Path] = []
    for name in dict.fromkeys(each.bank for each in chosen):
        bank = cache.named(name)
        layers = {each.layer for each in chosen if each.bank == name}
        if None not in layers and not layers >= _layers_of(bank):
            for layer in sorted(filter(None, layers)):
                drop_layer(bank, layer)
        elif bank.is_linked:
            left += _remove(bank.path)
        else:
            with alone(bank):
                left += _remove(bank.path)
    return left


def _remove(folder: Path) -> list[Path]:
    """Remove a bank's own files, and its folder if nothing else is in it; return what is left."""
    with errors_of(folder), suppress(FileNotFoundError):
        if folder.is_symlink():
            folder.unlink()
            return []
        parts, info = folder / "parts", folder / "bank.json"
        for path in own_files(folder):
            if path != info:
                path.unlink(missing_ok=True)
        with suppress(OSError):  # there is more in it, or it is not there
            parts.rmdir()
        info.unlink(missing_ok=True)  # last: without it the rest is not known to be a bank
        with suppress(OSError):
            folder.rmdir()
        inside = [parts] if parts.is_dir() and not parts.is_symlink() else []
        found = [path for place in (*inside, folder) for path in sorted(place.iterdir())]
        return [path for path in found if path not in inside]
    return []


def _layers_of(bank: Bank) -> set[str]:
    """Return the layers in ``bank.json`` or in a part."""
    described = bank.info.layers if bank.exists else ()
    return set(described).union(*(part.layers for part in bank.parts()))


def _sizes(bank: Bank) -> dict[Path, int]:
    """Return the files of a bank's parts, with the bytes that their removal frees.

    These are none for a link, and for what is behind one.
    """
    found = {}
    for path in bank.part_files():
        with suppress(FileNotFoundError):  # another process has just replaced it
            found[path] = 0 if bank.is_linked or path.is_symlink() else path.stat().st_size
    return found


def _layers(bank: Bank, last: Mapping[_Key, str], *, imported: bool) -> list[Prunable]:
    """Return a bank's layers and their last extractions; the whole bank if it is unreadable."""
    sizes, written = _sizes(bank), 0.0
    for path in sizes or [bank.path]:
        with suppress(FileNotFoundError):
            written = max(written, path.stat().st_mtime)
    whole = Prunable(
        bank=bank.name,
        model=bank.name.rpartition("-")[0],
        layer=None,
        alias=None,
        bytes=sum(sizes.values()),
        last_extracted=datetime.fromtimestamp(written, UTC).isoformat(),
        imported=imported,
        linked=bank.is_linked or any(path.is_symlink() for path in sizes),
    )
    try:
        info = bank.info if bank.exists else None
        return [
            replace(
                whole,
                model=info.model if info else whole.model,
                layer=name,
                alias=(entry.typed or entry.alias) if entry else None,
                bytes=round(
                    sum(
                        sizes.get(part.path, 0) * part.layers[name].width / part.width
                        for part in bank.parts()
                        if name in part.layers
                    )
                ),
                last_extracted=max(last.get((bank.name, name), ""), whole.last_extracted),
                imported=imported or bool(info and info.weights_name == IMPORTED),
                aliases=entry.names if entry else (),
            )
            for name in sorted(_layers_of(bank))
            for entry in [info.layers.get(name) if info else None]
        ]
    except CacheError:
        return [whole]
