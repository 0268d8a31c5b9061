"""Replace the parts of a bank: merge them, or drop a layer."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from bottleneck.cache import writer as writers
from bottleneck.cache.banks import Bank
from bottleneck.cache.layout import compression_options
from bottleneck.cache.own import PARTS_LOCK
from bottleneck.cache.parts import Part, RowIndex
from bottleneck.errors import CacheError
from bottleneck.locks import Check, LockHeldError, locked

__all__ = ["Compaction", "alone", "compact_bank", "drop_layer"]

_SMALL = 0.5
"""A part below this fraction of the maximum size is merged with others."""
_COPY_BYTES = 2**23

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
    with alone(bank) as held:
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
                _replace(bank, {part: kept[part] for part in chosen}, layers, target, held)
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
    with alone(bank) as held:
        for (layers, compress), group in _by_kind(bank.parts()).items():
            if layer in layers:
                others = [name for name in layers if name != layer]
                everything = {part: np.arange(part.rows) for part in group}
                _replace(bank, everything, others, compress, held)
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
def alone(bank: Bank) -> Iterator[Check]:
    """Lock a bank against other removals of parts.

    Parameters
    ----------
    bank : Bank
        The bank.

    Yields
    ------
    callable
        As for `bottleneck.locks.locked`.

    Raises
    ------
    CacheError
        Another process removes parts, the bank cannot be written, or its parts are elsewhere,
        behind a link.
    """
    if bank.is_linked:
        raise CacheError(
            f"the parts of bank {bank.name} are in {str((bank.path / 'parts').resolve())!r}, and "
            f"nothing is removed behind a link; run the command on the cache folder there"
        )
    try:
        with locked(bank.path / PARTS_LOCK, wait=False) as held:
            yield held
    except LockHeldError as error:
        raise CacheError(
            f"parts of bank {bank.name} are being replaced by {error}; run the command again when "
            f"it is done"
        ) from None
    except FileNotFoundError as error:
        raise CacheError(
            f"{error.filename or 'a part'} disappeared while bank {bank.name} was being changed; "
            f"run the command again"
        ) from error
    except OSError as error:
        if isinstance(error, CacheError):
            raise
        raise CacheError(
            f"bank {bank.name} cannot be changed ({error.strerror}); check free disk space and "
            f"permissions"
        ) from error


def _first_rows(parts: Sequence[Part]) -> _Rows:
    """Return the rows of each part that are the first with their key for any of their layers."""
    first = {part: np.zeros(part.rows, bool) for part in parts}
    for layer in {layer for part in parts for layer in part.layers}:
        for part, rows in RowIndex(parts, layer).first_rows():
            first[part][rows] = True
    return {part: np.flatnonzero(mask) for part, mask in first.items()}


def _replace(bank: Bank, parts: _Rows, layers: Collection[str], compress: str, held: Check) -> None:
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
    if not held():
        raise CacheError(
            f"this process was stopped for so long that another one has begun to replace parts of "
            f"bank {bank.name}; nothing was lost: run the command again when the other one is done"
        )
    for path in old:
        path.unlink(missing_ok=True)
