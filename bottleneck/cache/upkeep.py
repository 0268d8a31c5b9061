"""Upkeep: parts replaced by others with the same rows, and what a cache need not keep."""

import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from bottleneck.cache import writer as writers
from bottleneck.cache.banks import Bank
from bottleneck.cache.folder import Cache
from bottleneck.cache.layout import compression_options
from bottleneck.cache.parts import Part, RowIndex, errors_of, part_files
from bottleneck.errors import CacheError, UnknownNameError, UsageError, did_you_mean
from bottleneck.files import move, stale_paths
from bottleneck.names import find_layers

__all__ = ["Compaction", "Prunable", "compact_bank", "drop_layer", "find_prunable", "prune"]

_SMALL = 0.5
"""Share of a part's most bytes under which it is put together with others."""
_COPY_BYTES = 2**23
_LEFTOVER = ".pruned-"

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
    with _alone(bank):
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
            small = [
                part
                for part in group
                if part not in wrong and part.path.stat().st_size < _SMALL * writers.PART_BYTES
            ]
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
    with _alone(bank):
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
def _alone(bank: Bank) -> Iterator[None]:
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
        for part, rows in RowIndex(parts, layer).first_rows():
            first[part.path][rows] = True
    return {path: np.flatnonzero(mask) for path, mask in first.items()}


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


@dataclass(frozen=True)
class Prunable:
    """A layer's features in a bank.

    Attributes
    ----------
    bank, model : str
        What they are.
    layer, alias : str or None
        The layer's names; None where a bank cannot be read, so that only all of it can go.
    bytes : int
        What they take on disk.
    last_extracted : str
        When an extraction last computed or reused them, or wrote to the bank, in ISO format.
    """

    bank: str
    model: str
    layer: str | None
    alias: str | None
    bytes: int
    last_extracted: str

    def is_named(self, layer: str) -> bool:
        """Return whether the layer goes by this name, or is in this module."""
        aliases = [self.alias] if self.alias else []
        return self.layer is not None and bool(find_layers(layer, {self.layer: aliases}))


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
        Of the very model, or bank; of this layer, by its name or alias, or of the module.
    older_than : timedelta, optional
        Not extracted, nor reused by an extraction, for so long.
    keep_bytes : int, optional
        Only as much as makes the banks no bigger than this, what was extracted longest ago first.

    Raises
    ------
    UsageError
        No condition is given, or no bank or layer has that name.
    CacheError
        A file cannot be read.
    """
    if model is None and layer is None and older_than is None and keep_bytes is None:
        raise UsageError(
            "nothing to prune by; give `model`, `layer`, `older_than` or `keep_bytes`, with "
            "`dry_run` to see first what would go"
        )
    known = _last_extracted(cache)
    everything = [each for bank in cache.bank_folders() for each in _layers(bank, known)]
    models = {each.model for each in everything}
    if model is not None and model not in models | {each.bank for each in everything}:
        raise UnknownNameError(
            f"no bank of the model {model!r}; 'bottleneck cache ls' lists them"
            f"{did_you_mean(model, models)}"
        )
    of_model = [each for each in everything if model in {None, each.model, each.bank}]
    found = [each for each in of_model if layer is None or each.is_named(layer)]
    if layer is not None and not found:
        raise UnknownNameError(
            f"no layer {layer!r} in {len({each.bank for each in of_model})} banks; 'bottleneck "
            f"cache ls' lists them"
        )
    if older_than is not None:
        limit = datetime.now(UTC) - older_than
        found = [each for each in found if datetime.fromisoformat(each.last_extracted) <= limit]
    if keep_bytes is None:
        return found
    excess = sum(bank.size for bank in cache.bank_folders()) - keep_bytes
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
        if None in layers or layers >= _layers_of(bank):
            _remove(cache, bank)
        else:
            for layer in sorted(filter(None, layers)):
                drop_layer(bank, layer)


def _remove(cache: Cache, bank: Bank) -> None:
    gone = cache.root / f"{_LEFTOVER}{bank.name}-{secrets.token_hex(4)}"
    with _alone(bank), errors_of(bank.path):
        move(bank.path, gone)
        shutil.rmtree(gone.resolve())
        if gone.is_symlink():
            gone.unlink()


def _layers_of(bank: Bank) -> set[str]:
    """Return the layers that ``bank.json`` or a part knows."""
    described = set(bank.info.layers) if bank.exists else set()
    return described.union(*(part.layers for part in bank.parts()))


def _layers(bank: Bank, known: dict[tuple[str, str], str]) -> list[Prunable]:
    written = _newest(bank)
    try:
        info = bank.info if bank.exists else None
        described = info.layers if info else {}
        return [
            Prunable(
                bank=bank.name,
                model=info.model if info else _model_of(bank),
                layer=name,
                alias=described[name].alias if name in described else None,
                bytes=_bytes_of(bank, name),
                last_extracted=max(known.get((bank.name, name), ""), written),
            )
            for name in sorted(_layers_of(bank))
        ]
    except CacheError:
        return [Prunable(bank.name, _model_of(bank), None, None, bank.size, written)]


def _model_of(bank: Bank) -> str:
    return bank.name.rpartition("-")[0]


def _newest(bank: Bank) -> str:
    """Return when the newest part was written, in ISO format."""
    paths = part_files(bank.path / "parts") or [bank.path]
    newest = max(path.stat().st_mtime for path in paths if path.exists())
    return datetime.fromtimestamp(newest, UTC).isoformat()


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
        (bank, layer.layer): run.time
        for run in cache.runs(damaged_too=False)
        for layer in run.layers
        for bank in (layer.bank, layer.view_bank)
        if bank
    }
