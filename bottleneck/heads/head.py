"""The fitted head: predict, save, load. Loading one runs no code."""

import csv
import hashlib
import io
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from safetensors.numpy import save

from bottleneck.arguments import checked
from bottleneck.errors import DataError, UsageError
from bottleneck.files import atomic_write
from bottleneck.folders import replaced_folder, restored
from bottleneck.heads.adjust import Adjust
from bottleneck.heads.files import (
    HISTORY_FILE,
    METADATA_FILE,
    NOVELTY,
    SEEN_FILE,
    WEIGHTS_FILE,
    check_head_folder,
    head_names,
    is_of_head,
    no_head,
    read_files,
)
from bottleneck.heads.models import Model
from bottleneck.heads.novelty import Novelty
from bottleneck.heads.scoring import link_of, log_probabilities
from bottleneck.labels import join_classes
from bottleneck.records import (
    HeadFacts,
    HeadRecord,
    as_dict,
    facts_of,
    read_record,
    with_parts,
    write_record,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = ["OWN_FOLDER", "Head", "find_head"]

OWN_FOLDER = "."
"""Model name in a head's `source` that means the head's own folder, wherever it is."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Head(HeadFacts):
    """A classifier on features.

    Attributes
    ----------
    model : Model
        Computes scores from features, standardisation included; raw ones but for `adjust`.
    seen : frozenset of str or None
        SHA-256 of the images that it was fitted or selected on; None if they are unknown.
    novelty : Novelty or None
        How far features are from those of the training images; None if it is unknown.
    """

    model: Model
    seen: frozenset[str] | None = None
    novelty: Novelty | None = None

    @property
    def link(self) -> str:
        """How scores become probabilities, see `bottleneck.heads.scoring.link_of`."""
        return link_of(self.clf, multilabel=self.multilabel)

    @property
    def adjust(self) -> Adjust:
        """What is done with features before the model sees them."""
        return Adjust(self.power, self.normalize, self.widths)

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return the scores of features.

        Parameters
        ----------
        X : np.ndarray
            Shape (n_samples, d).

        Returns
        -------
        np.ndarray
            Shape (n_samples, k), also for two classes.

        Raises
        ------
        UsageError, DataError
            The number of features is not that of the head; or the scores are not finite.
        """
        if X.ndim != 2 or X.shape[1] != self.model.n_features:  # noqa: PLR2004 - rows and columns
            raise UsageError(
                f"features of shape {X.shape} do not fit this head; expected "
                f"(n, {self.model.n_features}): give features of the layer that it was fitted on"
            )
        return self.model.finite_scores(self.adjust(X))

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities of shape (n_samples, k), whose rows sum to 1 unless `multilabel`.

        Parameters
        ----------
        X : np.ndarray
            Features of shape (n_samples, d), checked as in `decision_function`.

        Returns
        -------
        np.ndarray
        """
        return self.probabilities(self.decision_function(X))

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Turn scores of shape (n_samples, k) into probabilities of the same shape.

        Parameters
        ----------
        scores : np.ndarray

        Returns
        -------
        np.ndarray
        """
        return np.asarray(np.exp(log_probabilities(self.link, scores, self.temperature)))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the label of each row, shape (n_samples,), see `labels`.

        Parameters
        ----------
        X : np.ndarray
            Features of shape (n_samples, d), checked as in `decision_function`.

        Returns
        -------
        np.ndarray
        """
        return self.labels(self.decision_function(X))

    def labels(self, scores: np.ndarray) -> np.ndarray:
        """Return the label that scores give each row, shape (n_samples,).

        It is the class with the highest score; or, if `multilabel`, all classes with scores above
        zero, separated by semicolons as in a table.

        Parameters
        ----------
        scores : np.ndarray
            Shape (n_samples, k).

        Returns
        -------
        np.ndarray
        """
        if not self.multilabel:
            return np.asarray(np.array(self.classes)[scores.argmax(axis=1)])
        return np.array([join_classes(np.compress(row, self.classes)) for row in scores > 0])

    def to_module(self) -> "nn.Module":
        """Return the head as a torch module whose outputs are the scores."""
        from bottleneck.heads.modules import module_of

        return module_of(self.model, self.adjust)

    @checked
    def save(self, folder: str | Path) -> Path:
        """Save as ``head.safetensors`` and ``head.json``; a network's history as ``history.csv``.

        An existing head in `folder` is replaced as a whole, together with its evaluations; other
        files stay. Whatever interrupts this, the folder has the old head or the new one.

        Parameters
        ----------
        folder : str or Path
            Folder for this head only; its name is the head's name.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        UsageError
            `folder` already exists and is not a head folder.
        DataError
            The folder cannot be written.
        """
        target = Path(folder)
        check_head_folder(target)
        try:
            with replaced_folder(target, is_of_head) as new:
                self.write_into(new)
        except OSError as error:
            raise DataError(
                f"the head cannot be saved as {str(target)!r} ({error.strerror}); choose another "
                f"folder with `heads`"
            ) from error
        return target

    def write_into(self, folder: Path) -> None:
        """Write the files of the head into a folder that has none.

        Parameters
        ----------
        folder : Path
            The folder.

        Raises
        ------
        OSError
            The folder cannot be written.
        """
        # safetensors writes the raw memory of an array and ignores its strides.
        arrays = dict(self.model.arrays)
        if self.novelty:
            arrays |= {NOVELTY + name: array for name, array in self.novelty.arrays.items()}
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        images = "".join(f"{digest}\n" for digest in sorted(self.seen or ())).encode()
        record = HeadRecord(
            **facts_of(self, HeadFacts),
            **self._described,
            created=_time_after(folder.parent),
            weights_sha256=hashlib.sha256(content).hexdigest(),
            seen_sha256=None if self.seen is None else hashlib.sha256(images).hexdigest(),
        )
        if self.seen is not None:
            atomic_write(folder / SEEN_FILE, images)
        if history := self.scores.get("history"):
            rows = [history[0].keys(), *(epoch.values() for epoch in history)]
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(rows)
            atomic_write(folder / HISTORY_FILE, text.getvalue())
        atomic_write(folder / WEIGHTS_FILE, content)
        write_record(folder / METADATA_FILE, record)

    @classmethod
    @checked
    def load(cls, folder: str | Path) -> Self:
        """Load a saved head, without running any code from it.

        Parameters
        ----------
        folder : str or Path
            Folder of the head.

        Returns
        -------
        Head

        Raises
        ------
        UnknownNameError
            There is no head in `folder`.
        DataError
            Its files are damaged, come from different heads, contradict each other, or have another
            version.
        """
        path = Path(folder)
        if not restored(path) or not (path / METADATA_FILE).is_file():
            raise no_head(path.name, path.parent)
        record = read_record(path / METADATA_FILE, HeadRecord)
        model, seen, novelty = read_files(path, record)
        facts = facts_of(record, HeadFacts)
        if record.source and record.source.model == OWN_FOLDER:
            facts["source"] = with_parts(record.source, model=str(path))
        return cls(**facts, model=model, seen=seen, novelty=novelty)

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the weights, in JSON types."""
        return {**as_dict(self, HeadFacts), **self._described}

    @property
    def _described(self) -> dict[str, Any]:
        """The model's entries of the record."""
        model = self.model
        settings = {name: each for name, each in vars(model).items() if name not in model.axes()}
        return {"kind": model.kind, "settings": settings, "n_features": model.n_features}


def _age(file: Path) -> tuple[str, int]:
    """Return a key that sorts heads by the time at which they were saved."""
    saved = file.stat().st_mtime_ns
    with suppress(DataError):  # one that cannot be read may still be the newest
        return read_record(file, HeadRecord).created, saved
    return datetime.fromtimestamp(saved // 10**9, UTC).isoformat(timespec="seconds"), saved


def _time_after(heads: Path) -> str:
    """Return the time, or that of the newest head in a folder if the clock has been set back."""
    files = [heads / each / METADATA_FILE for each in head_names(heads)]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    last = max((_age(file)[0] for file in files), default=now)
    if now >= last:
        return now
    return (datetime.fromisoformat(last) + timedelta(seconds=1)).isoformat()


@checked
def find_head(folder: str | Path, name: str | Path | None = None) -> tuple[Path, Head]:
    """Load a head by its name or path, or the newest head in a folder.

    Parameters
    ----------
    folder : str or Path
        Folder that contains heads.
    name : str or Path, optional
        A name, such as ``svm``, or the path of a head's folder, such as ``heads/svm``.

    Returns
    -------
    (Path, Head)
        The head's folder, which has the head's name, and the head.

    Raises
    ------
    DataError
        The folder has no heads, or the head cannot be read.
    UnknownNameError
        There is no head of that name.
    """
    if name is None:
        files = [Path(folder, each, METADATA_FILE) for each in head_names(folder)]
        if not files:
            raise DataError(f"no heads in {str(folder)!r}; 'bottleneck fit-head' creates one")
        name = max(files, key=_age).parent.name
    for path in (Path(folder, name), Path(name)):
        if restored(path) and (path / METADATA_FILE).is_file():
            return path, Head.load(path)
    raise no_head(str(name), Path(folder))
