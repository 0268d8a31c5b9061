"""Verification: every byte of a cache against what was written."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from bottleneck.cache.banks import Bank
from bottleneck.cache.folder import Cache
from bottleneck.cache.parts import Part
from bottleneck.errors import CacheError, DamagedError, MissingExtraError
from bottleneck.files import stale_paths
from bottleneck.records import BankRecord, read_record

__all__ = ["BankCheck", "Damage", "Verification", "set_aside", "verify_cache"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Damage:
    """A file that is not what was written.

    Attributes
    ----------
    path : str
        Where it was.
    moved_to : str or None
        Where it is; None where it was left, as it could not be moved, or not be checked.
    reason : str
        What is wrong with it.
    """

    path: str
    moved_to: str | None
    reason: str


@dataclass(frozen=True)
class BankCheck:
    """What was found in a bank.

    Attributes
    ----------
    bank : str
        Its name.
    parts, rows, bytes : int
        Those that are whole; a row is counted once for each layer.
    damaged : int
        Files that are damaged, or could not be checked.
    """

    bank: str
    parts: int
    rows: int
    bytes: int
    damaged: int


@dataclass(frozen=True)
class Verification:
    """What was found in a cache.

    Attributes
    ----------
    banks : list of BankCheck
        By name.
    damage : list of Damage
        All that is damaged, or could not be checked.
    """

    banks: list[BankCheck] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)


def verify_cache(
    cache: Cache, *, banks: Sequence[Bank] | None = None, progress: Progress | None = None
) -> Verification:
    """Check all files, and move damaged ones to ``quarantine/``; what they held is computed again.

    Of each part: the hash of all its bytes, the digest of its keys and schema, and every block's
    checksum. Of ``bank.json`` and the records of runs: their own digests. Of image sets: the digest
    in the record of their last run. ``features.h5`` is written anew from the parts.

    Parameters
    ----------
    cache : Cache
        Its damaged files are moved.
    banks : sequence of Bank, optional
        Those to check; all by default, and records and image sets with them.
    progress : callable, optional
        Called with ``"verify"``, the parts checked and the parts to check.

    Raises
    ------
    CacheError
        The cache cannot be read at all.
    """
    result = Verification()
    chosen = cache.bank_folders() if banks is None else banks
    total = sum(len(bank.parts()) for bank in chosen)
    done = 0
    report = progress or (lambda *_: None)
    report("verify", 0, total)
    for bank in chosen:
        before = len(result.damage)
        if bank.exists:
            result.damage.extend(
                _check(cache, bank.info_file, partial(read_record, bank.info_file, BankRecord))
            )
        parts = rows = size = 0
        for part in bank.parts():
            try:
                damage = _check(cache, part.path, partial(_check_part, part))
                if not damage:
                    parts += 1
                    rows += part.rows * len(part.layers)
                    size += part.path.stat().st_size
                result.damage.extend(damage)
            except FileNotFoundError:
                pass  # others have its rows since
            done += 1
            report("verify", done, total)
        _tidy(bank)
        damaged = len(result.damage) - before
        result.banks.append(BankCheck(bank.name, parts, rows, size, damaged))
    if banks is None:
        for path in cache.run_files():
            result.damage.extend(_check(cache, path, partial(cache.run, path)))
        last = {
            run.image_set: run.image_set_sha256
            for run in cache.runs(damaged_too=False)
            if run.image_set_sha256
        }
        for name, digest in last.items():
            path = cache.set_file(name)
            result.damage.extend(_check(cache, path, partial(_check_set, path, digest)))
    return result


def set_aside(cache: Cache, path: Path, reason: str) -> Damage:
    """Move a damaged file to ``quarantine/``, where the cache can be written."""
    try:
        return Damage(str(path), str(cache.set_aside(path, reason)), reason)
    except (CacheError, FileNotFoundError):
        return Damage(str(path), None, reason)


def _check(cache: Cache, path: Path, check: Callable[[], object]) -> list[Damage]:
    try:
        check()
    except DamagedError as error:
        return [set_aside(cache, path, error.reason)]
    except (CacheError, MissingExtraError) as error:  # it may well be whole
        return [Damage(str(path), None, str(error))]
    return []


def _check_part(part: Part) -> None:
    """Raise `DamagedError` unless a part is whole, to the last byte."""
    layers = part.layers  # first of all, whether it is ours to check
    part.check_content()
    for layer in layers:
        for _ in part.read(layer, np.arange(part.rows)):
            pass


def _check_set(path: Path, digest: str) -> None:
    """Raise `DamagedError` unless an image set's file is as its last extraction wrote it."""
    if not path.exists():
        return  # removed on purpose: there is nothing that could be wrong
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise DamagedError(path, "it is not as its last extraction wrote it")


def _tidy(bank: Bank) -> None:
    """Remove what killed writers left, and write ``features.h5`` anew."""
    # Where nothing can be written, nothing is mended; where others replace parts, they see to it.
    with suppress(CacheError, PermissionError, FileNotFoundError):
        for path in stale_paths(bank.path, "**/.*.partial"):
            path.unlink(missing_ok=True)
        bank.rebuild_view_file()
