"""Verification: every byte of a cache against what was written."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.cache.banks import Bank, read_record
from bottleneck.cache.folder import Cache
from bottleneck.cache.parts import Part
from bottleneck.errors import DamagedError
from bottleneck.files import stale_paths

__all__ = ["BankCheck", "Damage", "Verification", "verify_cache"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Damage:
    """A file that is not what was written.

    Attributes
    ----------
    path, moved_to : str
        Where it was, and where it is.
    reason : str
        One sentence.
    """

    path: str
    moved_to: str
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
        Files set aside.
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
        All that was set aside.
    """

    banks: list[BankCheck] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON holds it."""
        return asdict(self)


def verify_cache(
    cache: Cache, *, banks: Sequence[Bank] | None = None, progress: Progress | None = None
) -> Verification:
    """Check all files, and move damaged ones to ``quarantine/``; what they held is computed again.

    Of each part: the hash of all its bytes, the digest of its keys and schema, and every block's
    checksum. Of ``bank.json`` and the records of runs: their own digests. ``features.h5`` is
    written again where it does not show the parts that are there.

    Parameters
    ----------
    cache : Cache
        Its damaged files are moved.
    banks : sequence of Bank, optional
        Those to check; all by default, and the records of runs with them.
    progress : callable, optional
        Called with ``"verify"``, the parts checked and the parts to check.

    Raises
    ------
    CacheError
        A file cannot be read or moved, for another reason than that it is damaged.
    """
    result = Verification()
    chosen = cache.bank_folders() if banks is None else banks
    total = sum(len(bank.parts()) for bank in chosen)
    done = 0
    for bank in chosen:
        damaged = _check_record(bank.info_file) if bank.exists else []
        whole: list[Part] = []
        for part in bank.parts():
            try:
                _check_part(part)
                whole.append(part)
            except DamagedError as error:
                damaged.append((part.path, str(error)))
            except FileNotFoundError:
                pass  # others have its rows since
            done += 1
            if progress:
                progress("verify", done, total)
        result.damage.extend(_set_aside(cache, damaged))
        _tidy(bank)
        rows = sum(part.rows * len(part.layers) for part in whole)
        size = sum(part.path.stat().st_size for part in whole)
        result.banks.append(BankCheck(bank.name, len(whole), rows, size, len(damaged)))
    records = [] if banks else cache.run_files()
    for path in records:
        result.damage.extend(_set_aside(cache, _check_record(path)))
    return result


def _check_record(path: Path) -> list[tuple[Path, str]]:
    try:
        read_record(path)
    except DamagedError as error:
        return [(path, str(error))]
    return []


def _check_part(part: Part) -> None:
    """Raise `DamagedError` unless a part is whole, to the last byte."""
    part.check_content()
    for layer in part.layers:
        for _ in part.read(layer, np.arange(part.rows)):
            pass


def _set_aside(cache: Cache, damaged: Sequence[tuple[Path, str]]) -> list[Damage]:
    return [
        Damage(str(path), str(cache.set_aside(path, reason)), reason) for path, reason in damaged
    ]


def _tidy(bank: Bank) -> None:
    """Remove what killed writers left, and have ``features.h5`` show the parts that are there."""
    for path in stale_paths(bank.path, "**/.*.partial"):
        path.unlink(missing_ok=True)
    if not bank.view_file.exists() or bank.view_file.read_bytes() != bank.view_file_content():
        bank.rebuild_view_file()
