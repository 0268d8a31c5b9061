"""Parts replaced by others with the same rows, while readers and writers go on."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from bottleneck.cache import writer as writers
from bottleneck.cache.banks import Bank
from bottleneck.cache.index import RowIndex
from bottleneck.cache.layout import compression_options
from bottleneck.cache.parts import Part
from bottleneck.errors import CacheError

__all__ = ["Compaction", "alone", "compact_bank", "drop_layer"]

_SMALL = 0.5
"""Share of a part's most bytes under which it is put together with others."""
_COPY_BYTES = 2**23

_Rows = Mapping[Path, np.ndarray]
"""The rows of a part that are to be kept."""


@dataclass(frozen=True)
class Compaction:
    """What a compaction did.

    Attributes
    ----------
    bank : str
        Its name.
    parts_before, parts_after, bytes_before, bytes_after : int
        Of the bank.
    """

    bank: str
    parts_before: int
    parts_after: int
    bytes_before: int
    bytes_after: int


def compact_bank(bank: Bank, *, compress: str | None = None) -> Compaction:
    """Put small parts together, and drop rows that stand twice.

    New parts are written first, then ``features.h5``, and only then the old ones are removed: a
    kill at any moment leaves every row readable, and readers at work go on with the new parts.

    Parameters
    ----------
    bank : Bank
        Its parts are replaced.
    compress : str, optional
        Bring all parts to this compression; without, each stays as it is.

    Raises
    ------
    UsageError, MissingExtraError
        There is no such compression, or hdf5plugin is not installed.
    CacheError
        A part is damaged, the new ones cannot be written, or another compaction is at work.
    """
    compression_options(compress or "none", (1, 1), np.dtype(np.float16))
    with alone(bank):
        parts = bank.parts()
        size = bank.size
        kept = _first_rows(parts)
        groups: dict[tuple[tuple[str, ...], str], list[Part]] = {}
        for part in parts:
            target = compress or part.compress
            groups.setdefault((tuple(sorted(part.layers)), target), []).append(part)
        for (layers, target), group in groups.items():
            wrong = [
                part
                for part in group
                if len(kept[part.path]) < part.rows or part.compress != target
            ]
            small = [part for part in group if part not in wrong and _is_small(part)]
            chosen = [part for part in group if part in wrong or part in small]
            if wrong:  # what keeps a row that is dropped here must be whole
                for part in parts:
                    if part not in chosen and part.path.exists():
                        part.check_content()
            if wrong or len(small) > 1:
                _replace(bank, chosen, kept, layers, target)
        return Compaction(bank.name, len(parts), len(bank.parts()), size, bank.size)


def drop_layer(bank: Bank, layer: str) -> None:
    """Remove a layer's features; parts with other layers are written again without it.

    Raises
    ------
    CacheError
        As for `compact_bank`.
    """
    with alone(bank):
        groups: dict[tuple[tuple[str, ...], str], list[Part]] = {}
        for part in bank.parts():
            if layer in part.layers:
                others = tuple(sorted(name for name in part.layers if name != layer))
                groups.setdefault((others, part.compress), []).append(part)
        for (others, compress), group in groups.items():
            everything = {part.path: np.arange(part.rows) for part in group}
            _replace(bank, group, everything, others, compress)
        if bank.describes(layer):
            bank.forget_layer(layer)


@contextmanager
def alone(bank: Bank) -> Iterator[None]:
    """Keep others from removing parts of this bank; the system ends it with the process."""
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
    """Return the rows of each part that are the first with their key for one of their layers."""
    first = {part.path: np.zeros(part.rows, bool) for part in parts}
    for layer in {layer for part in parts for layer in part.layers}:
        index = RowIndex(parts, layer)
        for part, rows, _ in index.by_part(np.sort(index.first)):
            first[part.path][rows] = True
    return {path: np.flatnonzero(mask) for path, mask in first.items()}


def _is_small(part: Part) -> bool:
    return part.path.stat().st_size < _SMALL * writers.PART_BYTES


def _replace(
    bank: Bank, parts: Sequence[Part], kept: _Rows, layers: Collection[str], compress: str
) -> None:
    """Write some layers of the rows kept to new parts, and remove the old ones."""
    if layers:
        dtype = str(next(iter(parts[0].layers.values())).dtype)
        with bank.writer(dtype, compress=compress, part_seconds=np.inf) as writer:
            for part in parts:
                for rows in _pieces(part, kept[part.path]):
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


def _pieces(part: Part, rows: np.ndarray) -> list[np.ndarray]:
    width = sum(layer.width for layer in part.layers.values())
    step = max(1, _COPY_BYTES // width)
    return [rows[start : start + step] for start in range(0, len(rows), step)]
