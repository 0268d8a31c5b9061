"""The fitted head: predict, save, load. Loading one runs no code."""

import csv
import hashlib
import io
import os
import reprlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from bottleneck.arguments import checked
from bottleneck.errors import DataError, UnknownNameError, UsageError, did_you_mean
from bottleneck.files import atomic_write, sha256_of
from bottleneck.heads.models import MODELS, Affine, Model, make_model
from bottleneck.heads.recipes import RECIPES
from bottleneck.heads.scoring import link_of, log_probabilities
from bottleneck.labels import join_classes
from bottleneck.records import HeadFacts, HeadRecord, as_dict, facts_of, read_record, write_record

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Head", "find_head", "head_names"]

_WEIGHTS_FILE = "head.safetensors"
_METADATA_FILE = "head.json"
_HISTORY_FILE = "history.csv"
_MODEL_FILE = "model.json"
"""File of a fine-tuned model, next to its head."""
_OWN_FOLDER = "."


@dataclass(frozen=True, eq=False, kw_only=True)
class Head(HeadFacts):
    """A classifier on features.

    Attributes
    ----------
    model : Model
        Computes scores from raw features, standardisation included.
    """

    model: Model

    @property
    def link(self) -> str:
        """How scores become probabilities, see `bottleneck.heads.scoring.link_of`."""
        return link_of(self.clf, multilabel=self.multilabel)

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
        UsageError
            The number of features differs from that of the features the head was fitted on.
        DataError
            A score is not finite.
        """
        if X.ndim != 2 or X.shape[1] != self.model.n_features:  # noqa: PLR2004 - rows and columns
            raise UsageError(
                f"features of shape {X.shape} do not fit this head; expected "
                f"(n, {self.model.n_features}): give features of the layer that it was fitted on"
            )
        return self.model.finite_scores(X)

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
        zero, separated by semicolons as in a manifest.

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

        return module_of(self.model)

    @checked
    def save(self, folder: str | Path) -> Path:
        """Save as ``head.safetensors`` and ``head.json``; a network's history as ``history.csv``.

        An existing head in `folder` is replaced and its evaluations are removed; other files stay.
        Each file is written completely or not at all, and `load` detects files of different heads.

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
        own = [target / name for name in (_METADATA_FILE, _WEIGHTS_FILE, _MODEL_FILE)]
        empty = target.is_dir() and not any(target.iterdir())
        if os.path.lexists(target) and not empty and not any(path.is_file() for path in own):
            raise UsageError(
                f"{str(target)!r} already exists and is not a head folder; choose another name for "
                f"the head"
            )
        # safetensors writes the raw memory of an array and ignores its strides.
        arrays = self.model.arrays.items()
        content = save({name: np.ascontiguousarray(array) for name, array in arrays})
        record = HeadRecord(
            **facts_of(self, HeadFacts),
            **self._described,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            weights_sha256=hashlib.sha256(content).hexdigest(),
        )
        try:
            for old in (*target.glob("evaluation-*.json"), *target.glob(_HISTORY_FILE)):
                old.unlink()
            if history := self.scores.get("history"):
                rows = [history[0].keys(), *(epoch.values() for epoch in history)]
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows(rows)
                atomic_write(target / _HISTORY_FILE, text.getvalue())
            atomic_write(target / _WEIGHTS_FILE, content)
            write_record(target / _METADATA_FILE, record)
        except OSError as error:
            raise DataError(
                f"the head cannot be saved as {str(target)!r} ({error.strerror}); choose another "
                f"folder with `heads`"
            ) from error
        return target

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
        if not (path / _METADATA_FILE).is_file():
            raise _no_head(path.name, path.parent)
        record = read_record(path / _METADATA_FILE, HeadRecord)
        try:
            model = _read_model(path / _WEIGHTS_FILE, record)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise HeadRecord.refusal(path / _WEIGHTS_FILE, error) from error
        if wrong := _contradiction(record):
            raise HeadRecord.refusal(path / _METADATA_FILE, ValueError(wrong))
        facts = facts_of(record, HeadFacts)
        if record.source and record.source.model == _OWN_FOLDER:
            facts["source"] = replace(record.source, model=str(path))
        return cls(**facts, model=model)

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the weights, in JSON types."""
        return {**as_dict(self, HeadFacts), **self._described}

    @property
    def _described(self) -> dict[str, Any]:
        """The model's entries of the record."""
        model = self.model
        settings = {name: each for name, each in vars(model).items() if name not in model.axes()}
        return {"kind": model.kind, "settings": settings, "n_features": model.n_features}


def _read_model(file: Path, record: HeadRecord) -> Model:
    if record.weights_sha256 != sha256_of(file):
        raise ValueError(f"it and {_METADATA_FILE} come from different heads")
    return make_model(record, load(file.read_bytes()))


def _contradiction(record: HeadRecord) -> str:
    """Return a contradiction between the entries of a head's record, or ``""``."""
    classes, kind = record.classes, record.clf if record.clf in MODELS else Affine.kind
    if record.kind != kind:
        return f"'kind' is {record.kind!r}, expected {kind!r} as 'clf' is {record.clf!r}"
    if len(set(classes)) < len(classes) or not _are_sorted(classes):
        return f"'classes' is {reprlib.repr(list(classes))}, expected different ones, sorted"
    if record.multilabel and not RECIPES[record.clf].multilabel:
        return f"'multilabel' is True, expected False as 'clf' is {record.clf!r}"
    told = {**record.hyperparameters, "multilabel": record.multilabel}
    for name, value in record.settings.items():
        if told.get(name, value) != value:
            return f"{name!r} is {told[name]!r}, expected {value!r} as in 'settings'"
    return ""


def _are_sorted(classes: Sequence[str]) -> bool:
    """Return whether classes are sorted, as texts or as numbers."""
    with suppress(ValueError):
        if (numbers := list(map(float, classes))) == sorted(numbers):
            return True
    return list(classes) == sorted(classes)


@checked
def head_names(folder: str | Path) -> list[str]:
    """Return the names of the heads saved in a folder.

    Parameters
    ----------
    folder : str or Path
        The folder; it need not exist.

    Returns
    -------
    list of str
        Sorted names.
    """
    return sorted(path.parent.name for path in Path(folder).glob(f"[!.]*/{_METADATA_FILE}"))


def _no_head(name: str, folder: Path) -> UnknownNameError:
    near = did_you_mean(Path(name).name, head_names(folder))
    return UnknownNameError(
        f"no head {name!r} in {str(folder)!r}; 'bottleneck fit-head' creates one{near}"
    )


@checked
def find_head(folder: str | Path, name: str | Path | None = None) -> tuple[Path, Head]:
    """Load a head by its name or path, or the only head in a folder.

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
    UsageError
        The folder has several heads and no name was given.
    UnknownNameError
        There is no head of that name.
    """
    if name is None:
        names = head_names(folder)
        if not names:
            raise DataError(f"no heads in {str(folder)!r}; 'bottleneck fit-head' creates one")
        if len(names) > 1:
            raise UsageError(
                f"{str(folder)!r} has {len(names)} heads: {', '.join(names)}; choose one with "
                f"`head`"
            )
        name = names[0]
    for path in (Path(folder, name), Path(name)):
        if (path / _METADATA_FILE).is_file():
            return path, Head.load(path)
    raise _no_head(str(name), Path(folder))
