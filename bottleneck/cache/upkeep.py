"""Compact the parts of banks, and prune features that are no longer needed."""

import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate

import numpy as np
from filelock import FileLock, Timeout

from bottleneck.arguments import find_layers
from bottleneck.cache import writer as writers
from bottleneck.cache.banks import Bank
from bottleneck.cache.folder import Cache
from bottleneck.cache.layout import compression_options
from bottleneck.cache.parts import Part, RowIndex, errors_of
from bottleneck.errors import CacheError, UnknownNameError, UsageError, did_you_mean
from bottleneck.files import move, remove_stale

__all__ = ["Compaction", "Prunable", "compact_bank", "drop_layer", "find_prunable", "prune"]

_SMALL = 0.5
"""A part below this fraction of the maximum size is merged with others."""
_COPY_BYTES = 2**23
_LEFTOVER = ".pruned-"

_Rows = Mapping[Part, np.ndarray]
"""Rows of a part to keep."""


@dataclass(frozen=True)
class Compaction:
    """The result of a compaction.

    Attributes
    ----------
    bank : str
        Name of the bank.
    parts_before, parts_after, bytes_before, bytes_after : int
        Number of parts and their bytes in the bank.
    """

    bank: str
    parts_before: int
    parts_after: int
    bytes_before: int
    bytes_after: int


def compact_bank(bank: Bank, *, compress: str | None = None) -> Compaction:
    """Merge small parts, and drop duplicate rows.

    New parts are written first, then ``features.h5``; only then are old parts removed: a process
    killed at any moment leaves every row readable, and readers continue with the new parts.

    Parameters
    ----------
    bank : Bank
        Its parts are replaced.
    compress : str, optional
        Compression of all parts; without it, each part keeps its own.

    Returns
    -------
    Compaction
        Parts and bytes before and after.

    Raises
    ------
    UsageError, MissingExtraError
        The compression does not exist, or hdf5plugin is not installed.
    CacheError
        A part is damaged, a new part cannot be written, or another compaction is running.
    """
    compression_options(compress or "none", np.empty((1, 1)))  # refused before any work
    with _alone(bank):
        parts, size = bank.parts(), bank.size
        kept = _first_rows(parts)
        for (layers, target), group in _by_kind(parts, compress).items():
            wrong = {p for p in group if len(kept[p]) < p.rows or p.compress != target}
            least = _SMALL * writers.PART_BYTES
            chosen = [p for p in group if p in wrong or p.path.stat().st_size < least]
            if wrong:  # what keeps a row that is dropped here must be whole
                for part in parts:
                    if part not in chosen and part.path.exists():
                        part.check_content()
            if wrong or len(chosen) > 1:
                _replace(bank, {part: kept[part] for part in chosen}, layers, target)
        return Compaction(bank.name, len(parts), len(bank.parts()), size, bank.size)


def drop_layer(bank: Bank, layer: str) -> None:
    """Remove a layer's features; parts with other layers are rewritten without it.

    Parameters
    ----------
    bank : Bank
        Its parts are replaced.
    layer : str
        The layer's own name, not its alias.

    Raises
    ------
    CacheError
        As for `compact_bank`.
    """
    with _alone(bank):
        for (layers, compress), group in _by_kind(bank.parts()).items():
            if layer in layers:
                others = [name for name in layers if name != layer]
                everything = {part: np.arange(part.rows) for part in group}
                _replace(bank, everything, others, compress)
        if bank.describes(layer):
            bank.forget_layer(layer)


def _by_kind(
    parts: Sequence[Part], compress: str | None = None
) -> dict[tuple[tuple[str, ...], str], list[Part]]:
    """Group parts that have the same layers and the same target compression."""
    kinds: dict[tuple[tuple[str, ...], str], list[Part]] = {}
    for part in parts:
        kind = tuple(sorted(part.layers)), compress or part.compress
        kinds.setdefault(kind, []).append(part)
    return kinds


@contextmanager
def _alone(bank: Bank) -> Iterator[None]:
    """Lock the bank against other removals of parts, until the process ends."""
    lock = FileLock(bank.path / ".compact.lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout:
        raise CacheError(
            f"parts of bank {bank.name} are being replaced by another process; run the command "
            f"again when it is done"
        ) from None
    except FileNotFoundError as error:
        raise CacheError(
            f"{error.filename or 'a part'} vanished while bank {bank.name} was being compacted; "
            f"run the command again"
        ) from error


def _first_rows(parts: Sequence[Part]) -> _Rows:
    """Return the rows of each part that are the first with their key for any of their layers."""
    first = {part: np.zeros(part.rows, bool) for part in parts}
    for layer in {layer for part in parts for layer in part.layers}:
        for part, rows in RowIndex(parts, layer).first_rows():
            first[part][rows] = True
    return {part: np.flatnonzero(mask) for part, mask in first.items()}


def _replace(bank: Bank, parts: _Rows, layers: Collection[str], compress: str) -> None:
    """Write some layers of the kept rows to new parts, and remove the old parts."""
    if layers:
        first = next(iter(parts))
        dtype = str(next(iter(first.layers.values())).dtype)
        with bank.writer(dtype, compress=compress, part_seconds=np.inf) as writer:
            for part, kept in parts.items():
                step = max(1, _COPY_BYTES // part.width)
                for start in range(0, len(kept), step):
                    rows = kept[start : start + step]
                    features = {
                        layer: np.concatenate(
                            [values.copy() for values, _ in part.read(layer, rows)]
                        )
                        for layer in layers
                    }
                    writer.append(part.digests[rows], features, views=part.views[rows])
    old = [part.path for part in parts]
    bank.rebuild_view_file(without=old)
    for path in old:
        path.unlink(missing_ok=True)


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
        Size on disk.
    last_extracted : str
        Time at which an extraction last computed, reused or stored them, in ISO format.
    aliases : list of str
        All names of the layer besides its own.
    """

    bank: str
    model: str
    layer: str | None
    alias: str | None
    bytes: int
    last_extracted: str
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

    Returns
    -------
    list of Prunable
        Items for `prune`; unreadable banks as a whole.

    Raises
    ------
    UsageError
        No condition is given, or no bank or layer has that name.
    CacheError
        A file cannot be read.
    """
    if model is None and layer is None and older_than is None and keep_bytes is None:
        raise UsageError(
            "no rule for what to remove; give `model`, `layer`, `older_than` or `keep_bytes`, "
            "and `dry_run` to see first what would be removed"
        )
    extracted = {
        (bank, layer.layer): run.time
        for run in cache.runs(damaged_too=False)
        for layer in run.layers
        for bank in (layer.bank, layer.view_bank)
    }
    everything = [each for bank in cache.bank_folders() for each in _layers(bank, extracted)]
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
            f"none of {len({each.bank for each in of_model})} banks has a layer {layer!r}; "
            f"'bottleneck cache ls' lists the layers"
        )
    if older_than is not None:
        limit = datetime.now(UTC) - older_than
        found = [each for each in found if datetime.fromisoformat(each.last_extracted) <= limit]
    if keep_bytes is None:
        return found
    found.sort(key=lambda each: each.last_extracted)
    excess = sum(bank.size for bank in cache.bank_folders()) - keep_bytes
    gone = accumulate((each.bytes for each in found), initial=0)
    return [each for each, before in zip(found, gone, strict=False) if before < excess]


def prune(cache: Cache, chosen: Sequence[Prunable]) -> None:
    """Remove the items from `find_prunable`; an interruption leaves the remaining items intact.

    Parameters
    ----------
    cache : Cache
        The cache, or its folder.
    chosen : sequence of Prunable
        Items to remove.

    Raises
    ------
    CacheError
        A file cannot be removed, or a part that has other layers is damaged.
    """
    remove_stale(cache.root, f"{_LEFTOVER}*/")
    for name in dict.fromkeys(each.bank for each in chosen):
        bank = cache.named(name)
        layers = {each.layer for each in chosen if each.bank == name}
        if None in layers or layers >= _layers_of(bank):
            gone = cache.root / f"{_LEFTOVER}{bank.name}-{secrets.token_hex(4)}"
            with _alone(bank), errors_of(bank.path):
                move(bank.path, gone)
                shutil.rmtree(gone.resolve())
                if gone.is_symlink():
                    gone.unlink()
        else:
            for layer in sorted(filter(None, layers)):
                drop_layer(bank, layer)


def _layers_of(bank: Bank) -> set[str]:
    """Return the layers in ``bank.json`` or in a part."""
    described = bank.info.layers if bank.exists else ()
    return set(described).union(*(part.layers for part in bank.parts()))


def _layers(bank: Bank, extracted: Mapping[tuple[str | None, str], str]) -> list[Prunable]:
    """Return a bank's layers and their last extractions; the whole bank if it is unreadable."""
    files = [path for path in bank.part_files() or [bank.path] if path.exists()]
    written = datetime.fromtimestamp(max(path.stat().st_mtime for path in files), UTC).isoformat()
    model = bank.name.rpartition("-")[0]
    try:
        info = bank.info if bank.exists else None
        described = info.layers if info else {}
        return [
            Prunable(
                bank=bank.name,
                model=info.model if info else model,
                layer=name,
                alias=(described[name].typed or described[name].alias)
                if name in described
                else None,
                bytes=round(
                    sum(
                        part.path.stat().st_size * part.layers[name].width / part.width
                        for part in bank.parts()
                        if name in part.layers
                    )
                ),
                last_extracted=max(extracted.get((bank.name, name), ""), written),
                aliases=described[name].names if name in described else (),
            )
            for name in sorted(_layers_of(bank))
        ]
    except CacheError:
        return [Prunable(bank.name, model, None, None, bank.size, written)]
