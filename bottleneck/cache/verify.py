"""Verify every byte of a cache."""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bottleneck.cache.banks import Bank
from bottleneck.cache.folder import Cache
from bottleneck.cache.leases import remove_abandoned
from bottleneck.cache.own import is_linked, is_partial, open_part
from bottleneck.cache.shards import shard_files
from bottleneck.errors import (
    CacheError,
    DamagedError,
    MissingExtraError,
    OtherVersionError,
    first_line,
    is_out_of_memory,
)
from bottleneck.files import move, sha256_of, write_json
from bottleneck.folders import remove_stale
from bottleneck.records import Extraction, ShardRecord, read_record

__all__ = ["BankCheck", "Damage", "Verification", "set_aside", "verify_cache"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Damage:
    """A damaged file.

    Attributes
    ----------
    path : str
        Original path.
    moved_to : str or None
        Current path; None if the file could not be moved or checked.
    reason : str
        Description of the damage.
    """

    path: str
    moved_to: str | None
    reason: str


@dataclass(frozen=True)
class BankCheck:
    """The result of checking a bank.

    Attributes
    ----------
    bank : str
        Name of the bank.
    parts, rows, bytes : int
        Undamaged parts, their rows and bytes; a row counts once for each layer.
    damaged : int
        Number of files that are damaged or could not be checked.
    """

    bank: str
    parts: int
    rows: int
    bytes: int
    damaged: int


@dataclass(frozen=True)
class Verification:
    """The result of checking a cache.

    Attributes
    ----------
    banks : list of BankCheck
        Sorted by name.
    damage : list of Damage
        All files that are damaged or could not be checked.
    strangers : list of str
        Files and folders that were not checked, as the cache did not write them.
    """

    banks: list[BankCheck] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)


def verify_cache(
    cache: Cache, *, banks: Sequence[Bank] | None = None, progress: Progress | None = None
) -> Verification:
    """Check all files, and move damaged ones to ``quarantine/``, so that they are recomputed.

    For each part, the hash of all its bytes, the digest of its keys and schema, and the checksum of
    every block are verified; for ``bank.json`` and the records of extractions, their own digests;
    for image sets, the digest in the record of their last extraction. ``features.h5`` is rewritten
    from the parts. Only what the cache wrote is checked, and nothing is moved from behind a link.
    Leases of processes that have ended are removed.

    Parameters
    ----------
    cache : Cache
        The cache; damaged files in it are moved.
    banks : sequence of Bank, optional
        Banks to check; by default all banks, records and image sets.
    progress : callable, optional
        Called with ``"verify"``, the number of parts checked and their total.

    Returns
    -------
    Verification
        What is intact in each bank, and all damage.

    Raises
    ------
    CacheError
        The cache cannot be read.
    """
    result = Verification()
    chosen = cache.bank_folders() if banks is None else banks
    total, done = sum(len(bank.part_files()) for bank in chosen), 0
    report = progress or (lambda *_: None)
    report("verify", done, total)
    for bank in chosen:
        before = len(result.damage)
        if bank.exists:
            with _noted(cache, bank.info_file, result.damage):
                _ = bank.info
        parts = rows = size = 0
        for path in bank.part_files():
            with _noted(cache, path, result.damage):
                part = open_part(path)
                part.check_all()
                parts += 1
                rows += part.rows * len(part.layers)
                size += path.stat().st_size
            done += 1
            report("verify", done, total)
        with suppress(OSError):  # nothing can be written, or another process replaces parts
            if not bank.is_linked:
                for folder in (bank.path, bank.path / "parts"):
                    remove_stale(folder, is_partial)
                bank.rebuild_view_file()
        damaged = len(result.damage) - before
        result.banks.append(BankCheck(bank.name, parts, rows, size, damaged))
    if banks is None:
        remove_abandoned(cache.root)
        _check_records(cache, result.damage)
        _look_at_strangers(cache, result)
    return result


def _look_at_strangers(cache: Cache, result: Verification) -> None:
    """List what the cache did not write; a bank whose folder was renamed counts as damage."""
    for path in cache.strangers():
        try:
            info = Bank(path).info
        except (CacheError, NotADirectoryError):
            result.strangers.append(str(path))
        else:
            name = cache.bank(info.model, info.fingerprint).name
            reason = f"the folder of a bank was renamed; give it its name {name!r} again"
            result.damage.append(Damage(str(path), None, reason))


def _check_records(cache: Cache, damage: list[Damage]) -> None:
    """Check the records of extractions and the image sets."""
    for path in cache.run_files():
        with _noted(cache, path, damage), suppress(OtherVersionError):
            read_record(path, Extraction)
    for files in shard_files(cache):
        for path in files.paths():
            with _noted(cache, path, damage), suppress(OtherVersionError):
                read_record(path, ShardRecord)
    runs = cache.runs(damaged_too=False)
    digests = {run.image_set: run.image_set_sha256 for run in runs if run.image_set_sha256}
    for name, digest in digests.items():
        path = cache.set_file(name)
        with _noted(cache, path, damage):  # one that was removed on purpose is not missed
            if sha256_of(path) != digest:
                raise DamagedError(path, "it has changed since its last extraction")


def set_aside(cache: Cache, path: Path, reason: str) -> Damage:
    """Move a damaged file to ``quarantine/``, if possible, with a text file of the reason.

    Parameters
    ----------
    cache : Cache
        The cache of the file.
    path : Path
        The damaged file.
    reason : str
        Description of the damage.

    Returns
    -------
    Damage
        The original and the new path.
    """
    place = cache.root / "quarantine" / path.relative_to(cache.root)
    if is_linked(cache.root, path) or is_linked(cache.root, place):
        told = f"{reason}; not moved, because it or the quarantine is behind a link"
        return Damage(str(path), None, told)
    if os.path.lexists(place):
        place = place.with_name(f"{place.stem}-{secrets.token_hex(2)}{place.suffix}")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        move(path, place)
        write_json(place.with_name(f"{place.name}.json"), {"reason": reason, "time": now})
    except OSError:
        return Damage(str(path), None, reason)
    return Damage(str(path), str(place), reason)


@contextmanager
def _noted(cache: Cache, path: Path, damage: list[Damage]) -> Iterator[None]:
    """Move a file away if it is damaged; ignore one that has been replaced or removed."""
    try:
        yield
    except FileNotFoundError:
        pass
    except DamagedError as error:
        damage.append(set_aside(cache, path, error.reason))
    except (CacheError, MissingExtraError) as error:  # it may well be whole
        damage.append(Damage(str(path), None, str(error)))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        damage.append(Damage(str(path), None, f"not enough memory ({first_line(error)})"))
