"""Shards: extractions that know nothing of each other, and what each tells of itself in a file."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bottleneck.cache.folder import Cache
from bottleneck.cache.hdf5 import errors_of
from bottleneck.cache.own import is_linked
from bottleneck.errors import DamagedError, OtherVersionError, UsageError, counted, some_of
from bottleneck.records import ShardRecord, read_record, write_record
from bottleneck.settings.values import SHARD_PATTERN

__all__ = ["Shard", "ShardFiles", "shard_files", "unfinished"]

SHARDS = "shards"
"""Name of the folder in a cache."""
_JOB_NAME = re.compile(r".+-[0-9a-f]{12}", re.DOTALL)
_FILE_NAME = re.compile(r"([0-9]{1,9})-of-([0-9]{1,9})\.json")


_DIGITS = 16
"""Of a digest, that decide on the shard of an image."""
_ARRAY = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
_RANKS = ("RANK", "WORLD_SIZE")


@dataclass(frozen=True)
class Shard:
    """One of several shards, to which an image belongs by its digest alone.

    Attributes
    ----------
    number, count : int
        Number of the shard, from 1 on, and of all shards.
    """

    number: int
    count: int

    @classmethod
    def of(cls, given: str | None, environment: Mapping[str, str] = os.environ) -> Self | None:
        """Return the shard that is given as ``I/N``, or by the environment for ``auto``.

        Parameters
        ----------
        given : str or None
            The setting.
        environment : mapping of str to str
            Variables of the environment: those of a Slurm job array, whose tasks are numbered from
            any number on, or ``RANK``, from 0 on, and ``WORLD_SIZE``.

        Returns
        -------
        Shard or None
            None if no shard is given, so that all images belong to the extraction.

        Raises
        ------
        UsageError
            The environment names no shard, or one beyond the last.
        """
        if given is None:
            return None
        if found := re.fullmatch(SHARD_PATTERN, given):
            return cls(int(found[1]), int(found[2]))
        try:
            if _ARRAY[0] in environment:
                number, count = (int(environment[name]) for name in _ARRAY)
                first = int(environment.get("SLURM_ARRAY_TASK_MIN", 0))
                step = int(environment.get("SLURM_ARRAY_TASK_STEP", 1))
                shard = cls((number - first) // step + 1, count)
            else:
                rank, count = (int(environment[name]) for name in _RANKS)
                shard = cls(rank + 1, count)
        except (KeyError, ValueError, ZeroDivisionError):
            raise UsageError(
                f"`shard=auto` needs whole numbers in the environment variables "
                f"{' and '.join(_ARRAY)}, as Slurm sets them, or in {' and '.join(_RANKS)}; give "
                f"the shard as I/N, such as 2/4"
            ) from None
        if not 1 <= shard.number <= shard.count:
            raise UsageError(
                f"the environment gives shard {shard} for `shard=auto`, expected one from "
                f"1/{shard.count} to {shard.count}/{shard.count}; give the shard as I/N, such as "
                f"2/4: in a job array with gaps, the numbers of tasks are not those of shards"
            )
        return shard

    def has(self, digest: str) -> bool:
        """Return whether an image belongs to the shard.

        Parameters
        ----------
        digest : str
            SHA-256 of the image, hexadecimal.

        Returns
        -------
        bool
        """
        return self.number_of(digest, self.count) == self.number

    @staticmethod
    def number_of(digest: str, count: int) -> int:
        """Return the number of the shard of an image.

        Parameters
        ----------
        digest : str
            SHA-256 of the image, hexadecimal.
        count : int
            Number of shards.

        Returns
        -------
        int
            From 1 to `count`.
        """
        return int(digest[:_DIGITS], 16) % count + 1

    @property
    def scope(self) -> str:
        """The scope of leases: processes of the same shard divide its images."""
        return f"{self.number}-of-{self.count}"

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


class ShardFiles:
    """The records of all shards of an image set, for the same banks.

    Parameters
    ----------
    cache : Cache
        The cache.
    name : str
        Name of the folder: the image set, and 12 digits for its images and banks.
    """

    def __init__(self, cache: Cache, name: str) -> None:
        self._cache, self.folder = cache, cache.root / SHARDS / name

    def paths(self) -> list[Path]:
        """Return the files of records, sorted by name."""
        found = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        return [path for path in found if _FILE_NAME.fullmatch(path.name) and path.is_file()]

    def records(self) -> list[ShardRecord]:
        """Return the records that can be read; the shard of a damaged one counts as not done."""
        found = []
        for path in self.paths():
            with suppress(DamagedError, OtherVersionError, FileNotFoundError):
                found.append(read_record(path, ShardRecord))
        return found

    @property
    def count(self) -> int:
        """Number of shards into which the images are divided; 0 if they are not."""
        named = (_FILE_NAME.fullmatch(path.name) for path in self.paths())
        return max((int(found[2]) for found in named if found), default=0)

    def write(self, record: ShardRecord) -> None:
        """Write the record of a shard.

        Parameters
        ----------
        record : ShardRecord
            The record.

        Raises
        ------
        UsageError
            The images are divided into another number of shards already.
        CacheError
            The file cannot be written.
        """
        others = {each.shards for each in self.records()} - {record.shards}
        if others:
            known = max(others)
            done = sum(each.done for each in self.records() if each.shards == known)
            raise UsageError(
                f"image set {record.image_set!r} is being extracted in {known} shards, of which "
                f"{done} are done, got `shard` {record.shard}/{record.shards}; give `shard` as "
                f"I/{known}, or leave it out to compute all that is missing"
            )
        path = self.folder / f"{record.shard}-of-{record.shards}.json"
        with errors_of(path):
            write_record(path, record)

    def forget(self) -> None:
        """Remove the records once the image set is whole; nothing behind a link."""
        if self.folder.is_symlink() or is_linked(self._cache.root, self.folder):
            return
        with suppress(OSError):
            for path in self.paths():
                path.unlink(missing_ok=True)
            self.folder.rmdir()
            self.folder.parent.rmdir()


def shard_files(cache: Cache) -> list[ShardFiles]:
    """Return the records of all image sets that are being extracted in shards.

    Parameters
    ----------
    cache : Cache
        The cache.

    Returns
    -------
    list of ShardFiles
        Those with any record, by name.
    """
    folder = cache.root / SHARDS
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = [ShardFiles(cache, name) for name in names if _JOB_NAME.fullmatch(name)]
    return [each for each in found if each.paths()]


def unfinished(cache: Cache) -> str:
    """Return what is to be known of shards where an extraction is missing.

    Parameters
    ----------
    cache : Cache
        The cache.

    Returns
    -------
    str
        Such as ``; image set 'data' is being extracted in 4 shards, of which 2 and 3 are not
        done``; empty where nothing is.
    """
    told = ""
    for files in shard_files(cache):
        records = files.records()
        done = {each.shard for each in records if each.done}
        left = [str(number) for number in range(1, files.count + 1) if number not in done]
        if records and left:
            told += (
                f"; image set {records[0].image_set!r} is being extracted in "
                f"{counted(files.count, 'shard')}, of which {some_of(left)} "
                f"{'is' if len(left) == 1 else 'are'} not done"
            )
    return told
