"""The cache folder: banks, image sets and records of extractions."""

import os
import secrets
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryFile

from bottleneck.cache.banks import Bank
from bottleneck.cache.hdf5 import errors_of
from bottleneck.cache.leases import LEASES, is_lease, is_passing
from bottleneck.cache.own import is_bank, is_run
from bottleneck.errors import (
    CacheError,
    DamagedError,
    OtherVersionError,
    UnknownNameError,
    UsageError,
    did_you_mean,
    some_of,
)
from bottleneck.files import sha256_of, slug
from bottleneck.folders import leftover_of
from bottleneck.records import Extraction, FeatureSource, read_record, write_record
from bottleneck.records.banks import FINETUNED

__all__ = ["Cache", "bank_name"]

_LONGEST_NAME = 200
_OF_BANKS = ("bank.json", "parts")
_STAMP = "%Y%m%dT%H%M%S%f"
_TICK = timedelta(microseconds=1)
_LONGEST_MODEL = 255 - len("-0123456789ab")


class Cache:
    """The folder of all banks, image sets and records of extractions.

    Parameters
    ----------
    root : str, Path or Cache
        Created at the first write; for another `Cache`, the same folder.
    """

    def __init__(self, root: "str | Path | Cache" = "cache") -> None:
        self.root: Path = root.root if isinstance(root, Cache) else Path(root)

    def bank(self, model: str, fingerprint: str) -> Bank:
        """Return the bank of a fingerprint, which need not exist yet.

        A fine-tuned model is named by the path of its folder, which may have been moved. So its
        bank may have another name.

        Parameters
        ----------
        model : str
            Name of the model.
        fingerprint : str
            SHA-256 of everything that affects the features, hexadecimal.

        Returns
        -------
        Bank
        """
        bank = self.named(bank_name(model, fingerprint))
        if not bank.path.exists():
            for path in sorted(self.root.glob(f"*-{fingerprint[:12]}")):
                with suppress(CacheError):
                    known = Bank(path).info
                    if (known.weights_name, known.fingerprint) == (FINETUNED, fingerprint):
                        return Bank(path)
        return bank

    def named(self, name: str) -> Bank:
        """Return the bank with a name, which need not exist.

        Parameters
        ----------
        name : str
            Name of its folder.

        Returns
        -------
        Bank
        """
        return Bank(self.root / name)

    def banks_of(self, source: FeatureSource, made_by: str | None = None) -> tuple[Bank, ...]:
        """Return the bank of unaugmented features, and that of their views if there are any.

        Parameters
        ----------
        source : FeatureSource
            The source of the features.
        made_by : str, optional
            The command that errors about missing rows name, if not `FeatureSource.made_by`.

        Returns
        -------
        tuple of Bank
            One or two banks.
        """
        plain = self.bank(source.model, source.fingerprint).path
        views = [self.root / source.view_bank] if source.view_bank else []
        return tuple(Bank(path, made_by or source.made_by) for path in (plain, *views))

    def banks(self) -> tuple[Bank, ...]:
        """Return all banks, by name."""
        return tuple(bank for bank in self.bank_folders() if bank.exists)

    def bank_folders(self) -> tuple[Bank, ...]:
        """Return all banks, including those without ``bank.json``, and links to banks."""
        return tuple(Bank(path) for path in self._folders() if is_bank(path))

    def strangers(self) -> list[Path]:
        """Return what could be taken for a part of the cache but was not written by it.

        These are folders with ``bank.json`` or ``parts`` that are no banks, all in ``runs/`` that
        is no record, and all in ``leases/`` that is no lease.
        """
        folders = [path for path in self._folders() if not is_bank(path)]
        alike = [each for each in folders if any((each / name).exists() for name in _OF_BANKS)]
        runs = self.root / "runs"
        files = [path for path in _listed(runs) if not is_run(path) and not leftover_of(path.name)]
        leases = [] if (self.root / LEASES).is_symlink() else _listed(self.root / LEASES)
        others = [path for path in leases if not is_lease(path) and not is_passing(path.name)]
        return [*alike, *files, *others]

    def _folders(self) -> list[Path]:
        """Return the folders in the cache, and links to folders, sorted."""
        return [path for path in _listed(self.root) if path.is_dir()]

    def find_banks(self, name: str) -> tuple[Bank, ...]:
        """Return the banks whose names begin with a text, such as all banks of a model.

        Parameters
        ----------
        name : str
            A bank's name, or its beginning.

        Returns
        -------
        tuple of Bank
            At least one bank, sorted by name.

        Raises
        ------
        UnknownNameError
            No name begins with it.
        """
        names = [bank.name for bank in self.banks()]
        found = tuple(self.named(each) for each in names if each.startswith(name))
        if not found:
            raise UnknownNameError(
                f"no bank {name!r} in {str(self.root)!r}; expected one of {some_of(names)}"
                f"{did_you_mean(name, names)}"
                if names
                else f"no bank {name!r} in {str(self.root)!r}, which has none; 'bottleneck "
                f"extract' creates them, or give another folder with `cache`"
            )
        return found

    def set_file(self, name: str) -> Path:
        """Return the path of an image set's CSV file.

        Parameters
        ----------
        name : str
            Name of the image set.

        Returns
        -------
        Path
            Path of the file, which need not exist.

        Raises
        ------
        UsageError
            The name is too long for a file name, or leads to another folder.
        """
        if not name.strip(".") or any(letter in name for letter in "/\\\0"):
            raise UsageError(
                f"{name!r} is not a valid name of an image set; give another with `image_set`"
            )
        if len(os.fsencode(name)) > _LONGEST_NAME:
            raise UsageError(
                f"the image set's name {name!r} is too long for a file name; give a shorter one "
                f"with `image_set`"
            )
        return self.root / "sets" / f"{name}.csv"

    def record_run(self, run: Extraction) -> Extraction:
        """Save the record of an extraction in ``runs/``, once the image set has been written.

        Parameters
        ----------
        run : Extraction
            Record of the extraction.

        Returns
        -------
        Extraction
            The record, with the SHA-256 of the image set's file if there is one.

        Raises
        ------
        UsageError
            See `set_file`.
        CacheError
            The file cannot be written.
        """
        path = self.root / "runs" / f"{self._stamp(run)}-{secrets.token_hex(2)}.json"
        set_file = self.set_file(run.image_set)
        if set_file.exists():
            run = replace(run, image_set_sha256=sha256_of(set_file))
        with errors_of(path):
            write_record(path, run)
        return run

    def _stamp(self, run: Extraction) -> str:
        """Return the beginning of a record's name, after all others, whatever the clock says."""
        own = datetime.fromisoformat(run.time).strftime(_STAMP)
        last = max((path.name.partition("-")[0] for path in self.run_files()), default="")
        if own > last:
            return own
        with suppress(ValueError, OverflowError):  # digits that are no time, or the last of all
            return (datetime.strptime(last, _STAMP) + _TICK).strftime(_STAMP)  # noqa: DTZ007
        return last

    def run_files(self) -> list[Path]:
        """Return the record files of all extractions, oldest first."""
        return [path for path in _listed(self.root / "runs") if is_run(path)]

    def runs(self, *, damaged_too: bool = True) -> list[Extraction]:
        """Return the records of all extractions, oldest first, without those of other versions.

        Parameters
        ----------
        damaged_too : bool
            Whether to raise an error for a damaged record, or to skip it.

        Returns
        -------
        list of Extraction

        Raises
        ------
        DamagedError
            A record is damaged.
        """
        passed_over = (OtherVersionError,) if damaged_too else (OtherVersionError, DamagedError)
        records = []
        for path in self.run_files():
            with suppress(*passed_over):
                records.append(read_record(path, Extraction))
        return records

    def check_writable(self) -> None:
        """Raise `CacheError` unless files can be written to the cache folder.

        Raises
        ------
        CacheError
            The folder cannot be created, or no file can be written to it.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=self.root).close()
        except OSError as error:
            raise CacheError(
                f"cannot write to the cache folder {str(self.root)!r} ({error.strerror}); choose "
                f"another with `cache`"
            ) from error


def bank_name(model: str, fingerprint: str) -> str:
    """Return the name of a new bank.

    Parameters
    ----------
    model, fingerprint : str
        As for `Cache.bank`.

    Returns
    -------
    str
    """
    name = slug(model)
    while len(name.encode()) > _LONGEST_MODEL:  # of a fine-tuned model, whose path it is
        name = name[1:]
    return f"{name}-{fingerprint[:12]}"


def _listed(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted; nothing if it does not exist."""
    return sorted(folder.iterdir()) if folder.is_dir() else []
