"""The experiment log: an SQLite file to which experiments are appended."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from bottleneck.errors import BottleneckError, CacheError, DataError, UnknownNameError, UsageError
from bottleneck.inputs import open_regular

__all__ = ["INNER", "SINCE", "SKIPPED", "Experiment", "ExperimentLog"]

_APPLICATION = 0x62746C6B
"""SQLite's application id in the file's header: "btlk"."""
_VERSION = 1
"""Raised when older logs can no longer be read."""
_PATIENCE = 60.0
"""Seconds to wait for other processes to finish writing."""
_HEADER_BYTES = 100
_CREATE = f"""
BEGIN IMMEDIATE;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
CREATE TABLE IF NOT EXISTS experiments (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    created TEXT NOT NULL,
    settings TEXT NOT NULL,
    folds TEXT NOT NULL,
    seconds REAL NOT NULL,
    environment TEXT NOT NULL
);
COMMIT;
"""
"""The header comes first; another process may just have made the table."""
_SELECT = "SELECT number, created, seconds, settings, folds, environment FROM experiments "
_TYPED = "typed"
SINCE: Mapping[str, Any] = {
    "shots": "all",
    "power": 1.0,
    "normalize": "none",
    "least_divisor": 0.0,
}
"""Settings that an experiment has only where they differ from these values."""
INNER = "inner_"
"""Prefix of the metrics on folds of the images that the heads of a fold are fitted on."""
SKIPPED = INNER + "skipped"
"""Set for a value of `C` that was not tried there, as others had a lower log loss."""
LAYER_NAMES = (_TYPED, "alias", "layer")
"""Settings that name an experiment's layer; the first there is shown."""
_IS_TABLE = "SELECT type FROM sqlite_master WHERE name = 'experiments'"
"""A view may be anything, and endless."""


@dataclass(frozen=True)
class Experiment:
    """One cross-validated classifier.

    Attributes
    ----------
    number : int
        Number in the log, from 1.
    created : str
        Time of appending, in ISO 8601, UTC.
    settings : dict
        All settings that affect the result; ``typed`` is the name by which the layer was chosen.
    folds : list of dict
        For each fold its ``repeat`` and ``fold``, the number of held-out ``images``, and its
        metrics.
    seconds : float
        Duration.
    environment : dict
        Versions and platform, see `environment`.
    """

    number: int
    created: str
    settings: dict[str, Any]
    folds: list[dict[str, float]]
    seconds: float
    environment: dict[str, Any]

    @property
    def key(self) -> str:
        """SHA-256 of the settings as canonical JSON, unique in the log; ``typed`` is left out."""
        return _key(self.settings)

    @property
    def told(self) -> dict[str, Any]:
        """The settings, with those that are logged only where they differ from `SINCE`."""
        return {**SINCE, **self.settings}

    @property
    def layer(self) -> str | None:
        """The layer by the name to show: as typed, else its alias, else its own name."""
        names = (self.settings.get(key) for key in LAYER_NAMES)
        return next(filter(None, names), None)


class ExperimentLog:
    """Experiments in an SQLite file, each appended once and never changed.

    Several processes may append at once, and a killed process loses only the experiment it was
    appending. The file may be on a network share that supports file locks.

    Parameters
    ----------
    file : str or Path
        Created, with its folder, by the first `append`.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)

    def append(
        self,
        settings: Mapping[str, Any],
        folds: Sequence[Mapping[str, float]],
        seconds: float,
        environment: Mapping[str, Any],
    ) -> Experiment:
        """Append an experiment, or return the one in the log with the same settings.

        Parameters
        ----------
        settings : mapping
            All settings that affect the result, in JSON types.
        folds : sequence of mapping
            See `Experiment`.
        seconds : float
            Duration.
        environment : mapping
            See `environment`.

        Returns
        -------
        Experiment
            The one in the log.

        Raises
        ------
        UsageError
            There are no folds, a number is not finite, a value is not JSON, or the file is not an
            experiment log.
        CacheError
            The file cannot be written.
        """
        if not folds:
            raise UsageError("an experiment needs at least one fold, got none; give one or more")
        texts = [_json(each) for each in (settings, folds, seconds, environment)]
        key = _key(settings)
        created = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._opened() as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute(
                "INSERT INTO experiments (key, created, settings, folds, seconds, environment) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                (key, created, *texts),
            )
        (found,) = self._read("WHERE key = ?", key)
        return found

    def make(self) -> None:
        """Create the log, or check that it can be written.

        Raises
        ------
        UsageError
            The file is not an experiment log.
        CacheError
            The file cannot be written.
        """
        with self._opened():
            pass

    def find(self, settings: Mapping[str, Any]) -> Experiment | None:
        """Return the experiment with these settings; None if there is none, or no log.

        Parameters
        ----------
        settings : mapping of str to Any
            All settings of the experiment, in JSON types.

        Returns
        -------
        Experiment or None

        Raises
        ------
        UsageError
            The settings are not finite or not JSON, or the file is not an experiment log.
        CacheError
            The file cannot be read.
        """
        return next(iter(self._read("WHERE key = ?", _key(settings))), None)

    def experiments(self) -> list[Experiment]:
        """Return all experiments in the order of their numbers.

        Returns
        -------
        list of Experiment

        Raises
        ------
        DataError
            There is no log.
        UsageError
            The file is not an experiment log.
        CacheError
            The file cannot be read.
        """
        if not self.file.exists():
            raise DataError(f"no experiment log {str(self.file)!r}; 'bottleneck sweep' creates one")
        return self._read("ORDER BY number")

    def experiment(self, number: int) -> Experiment:
        """Return the experiment with a number.

        Parameters
        ----------
        number : int
            From 1 on, in the order of the log.

        Returns
        -------
        Experiment

        Raises
        ------
        UnknownNameError
            The number does not exist.
        DataError, UsageError, CacheError
            See `experiments`.
        """
        there = {each.number: each for each in self.experiments()}
        if number not in there:
            raise UnknownNameError(
                f"no experiment {number} in {str(self.file)!r}; 'bottleneck leaderboard' lists all"
            )
        return there[number]

    def _read(self, condition: str, *values: object) -> list[Experiment]:
        if not self.file.exists():
            return []
        found = []
        with self._opened() as database:
            for number, created, seconds, *texts in database.execute(_SELECT + condition, values):
                settings, folds, surroundings = map(json.loads, texts)
                row = Experiment(number, created, settings, folds, seconds, surroundings)
                found.append(_checked(row))
        return found

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection; its transaction is committed at the end, or rolled back on errors."""
        self._check()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            database = sqlite3.connect(self.file, timeout=_PATIENCE, isolation_level=None)
            with closing(database), database:
                # Syncs the folder too, so that a power cut does not bring a journal back.
                database.execute("PRAGMA synchronous = EXTRA")
                if database.execute("PRAGMA user_version").fetchone() == (0,):
                    # A new file, or one whose creation was interrupted.
                    database.executescript(_CREATE)
                if database.execute(_IS_TABLE).fetchone() != ("table",):
                    raise sqlite3.DatabaseError("it has no table of experiments")
                yield database
        except (sqlite3.Error, AttributeError, RecursionError, TypeError, ValueError) as error:
            if isinstance(error, BottleneckError):
                raise
            remedy = "check free disk space and permissions, or name another file"
            if "locked" in str(error):  # SQLite says so where there are no locks at all, too
                remedy = "wait for processes that use it, or name a file on a disk that has locks"
            raise CacheError(
                f"the experiment log {str(self.file)!r} cannot be used ({error}); {remedy}"
            ) from error

    def _check(self) -> None:
        """Reject another program's file before SQLite opens it and might write to it."""
        if not self.file.exists():
            return
        try:
            with open_regular(self.file) as file:
                header = file.read(_HEADER_BYTES)
        except OSError as error:
            raise CacheError(
                f"the experiment log {str(self.file)!r} cannot be used ({error.strerror}); check "
                f"its permissions, or name another file"
            ) from error
        if not header:
            return
        # https://www.sqlite.org/fileformat.html#the_database_header
        user_version, application = (
            int.from_bytes(header[place : place + 4], "big") for place in (60, 68)
        )
        if not header.startswith(b"SQLite format 3\0") or application != _APPLICATION:
            raise UsageError(
                f"{str(self.file)!r} already exists and is not an experiment log; name another file"
            )
        if user_version > _VERSION:
            raise UsageError(
                f"the experiment log {str(self.file)!r} has format {user_version}, but this "
                f"version reads {_VERSION}; update this package, or name another log"
            )


def _checked(found: Experiment) -> Experiment:
    """Return an experiment as `append` writes it; `ValueError` or `TypeError` for any other."""
    datetime.fromisoformat(found.created)
    numbers = [found.seconds, *(value for fold in found.folds for _, value in fold.items())]
    if not all(isinstance(each, int | float) and isfinite(each) for each in numbers):
        raise ValueError(f"experiment {found.number} has metrics that are not finite numbers")
    if not (found.folds and type(found.settings) is type(found.environment) is dict):
        raise ValueError(f"experiment {found.number} has no folds or no settings")
    return found


def _json(content: Any) -> str:
    """Return canonical JSON: the same text for equal values."""
    try:
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"an experiment cannot be written as JSON ({error}); give texts, finite numbers, and "
            f"lists and dictionaries of them"
        ) from error


def _key(settings: Mapping[str, Any]) -> str:
    """Return a digest of all settings but the name by which the layer was chosen."""
    decisive = {name: value for name, value in settings.items() if name != _TYPED}
    return hashlib.sha256(_json(decisive).encode()).hexdigest()
