"""The fitted head: predict, save, load. Loading one runs no code."""

import csv
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from safetensors.numpy import load, save

from bottleneck.errors import DataError, UnknownNameError, UsageError, did_you_mean
from bottleneck.files import atomic_write, read_json, write_json
from bottleneck.heads.models import MODELS, Model
from bottleneck.heads.probabilities import link_of, log_probabilities
from bottleneck.labels import join_classes

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Head", "find_head", "head_names"]

_SCHEMA_VERSION = 4
_WEIGHTS_FILE = "head.safetensors"
_METADATA_FILE = "head.json"
_HISTORY_FILE = "history.csv"
_MODEL_FILE = "model.json"
"""Of a fine-tuned model, beside its head."""
_OWN_FOLDER = "."


@dataclass(frozen=True, eq=False)
class Head:
    """A classifier on features.

    Attributes
    ----------
    clf : str
        The recipe, a key of `bottleneck.heads.RECIPES`.
    classes : tuple of str
        k labels, sorted.
    model : Model
        What gives the scores of features as they are, standardisation included.
    hyperparameters : dict
        What it was fitted with: ``C``, the inverse strength of the L2 penalty, as in scikit-learn;
        ``n_neighbors``; or those of `bottleneck.heads.MLP`.
    multilabel : bool
        Whether an image may be of several classes, or of none.
    temperature : float
        Divides the scores before they are turned into probabilities; fitted on held-out scores (Guo
        et al. 2017, On Calibration of Modern Neural Networks, section 4), and 1 without any.
    scores : dict
        How the hyper-parameter was chosen: the held-out metrics of each candidate; how far the
        probabilities of the chosen one were from the truth, with and without its temperature; and
        the history of a network's training.
    source : dict
        Of which features: model, weights, layer, fingerprint, image set and split digests. A saved
        head whose model is ``.`` has it beside it; loaded, it names the folder.
    """

    clf: str
    classes: tuple[str, ...]
    model: Model
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    multilabel: bool = False
    temperature: float = 1.0
    scores: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def link(self) -> str:
        """How scores become probabilities, see `bottleneck.heads.probabilities.link_of`."""
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
            The features have another length than those that the head was fitted on.
        """
        if X.ndim != 2 or X.shape[1] != self.model.n_features:  # noqa: PLR2004 - rows and columns
            raise UsageError(
                f"features of shape {X.shape} do not fit this head; expected "
                f"(n, {self.model.n_features}): give features of the layer that it was fitted on"
            )
        return self.model.scores(X)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities of shape (n_samples, k), whose rows sum to 1 unless `multilabel`."""
        return self.probabilities(self.decision_function(X))

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Turn scores of shape (n_samples, k) into probabilities of the same shape."""
        return np.asarray(np.exp(log_probabilities(self.link, scores, self.temperature)))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the label of each row, shape (n_samples,), see `labels`."""
        return self.labels(self.decision_function(X))

    def labels(self, scores: np.ndarray) -> np.ndarray:
        """Return the label that scores give each row, shape (n_samples,).

        It is the class with the highest score; or, if `multilabel`, those with scores above zero,
        as a manifest names them: separated by semicolons.
        """
        if not self.multilabel:
            return np.asarray(np.array(self.classes)[scores.argmax(axis=1)])
        return np.array([join_classes(np.compress(row, self.classes)) for row in scores > 0])

    def to_module(self) -> "nn.Module":
        """Return the head as a module of torch whose outputs are the scores."""
        return self.model.to_module()

    def save(self, folder: str | Path) -> Path:
        """Save as ``head.safetensors`` and ``head.json``; a network's history as ``history.csv``.

        A head that is already in `folder` is replaced and its evaluations are removed; other files
        stay. Each file is written whole or not at all, and `load` notices two that do not belong
        together.

        Raises
        ------
        UsageError
            `folder` is there and is no head.
        DataError
            The folder cannot be written.
        """
        target = Path(folder)
        own = [target / name for name in (_METADATA_FILE, _WEIGHTS_FILE, _MODEL_FILE)]
        empty = target.is_dir() and not any(target.iterdir())
        if os.path.lexists(target) and not empty and not any(path.is_file() for path in own):
            raise UsageError(
                f"{str(target)!r} is there and is no head; choose another name for the head"
            )
        # safetensors writes an array's memory as it lies, whatever its strides.
        content = save({name: np.ascontiguousarray(array) for name, array in self._arrays.items()})
        metadata = {
            "schema": _SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **self.as_dict(),
            "weights_sha256": hashlib.sha256(content).hexdigest(),
        }
        try:
            for old in (*target.glob("evaluation-*.json"), *target.glob(_HISTORY_FILE)):
                old.unlink()
            if history := self.scores.get("history"):
                atomic_write(target / _HISTORY_FILE, _as_csv(history))
            atomic_write(target / _WEIGHTS_FILE, content)
            write_json(target / _METADATA_FILE, metadata)
        except OSError as error:
            raise DataError(
                f"the head cannot be saved as {str(target)!r} ({error.strerror}); choose another "
                f"folder with --heads"
            ) from error
        return target

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load a saved head; nothing in it is run.

        Raises
        ------
        UnknownNameError
            There is no head in `folder`.
        DataError
            Its files are damaged, do not belong together, or are of another version.
        """
        path = Path(folder)
        if not (path / _METADATA_FILE).is_file():
            near = did_you_mean(path.name, head_names(path.parent))
            raise UnknownNameError(
                f"no head {path.name!r} in {str(path.parent)!r}{near}; 'bottleneck fit-head' makes "
                f"one"
            )
        try:
            metadata = read_json(path / _METADATA_FILE)
            content = (path / _WEIGHTS_FILE).read_bytes()
        except (OSError, ValueError) as error:
            raise DataError(
                f"the head in {str(path)!r} cannot be read ({error}); fit it again"
            ) from error
        if metadata["weights_sha256"] != hashlib.sha256(content).hexdigest():
            raise DataError(
                f"{_WEIGHTS_FILE} and {_METADATA_FILE} in {str(path)!r} do not belong together; "
                f"fit the head again"
            )
        if metadata["schema"] != _SCHEMA_VERSION:
            raise DataError(
                f"the head in {str(path)!r} is of another version of this package (format "
                f"{metadata['schema']}, expected {_SCHEMA_VERSION}); fit it again"
            )
        model = MODELS[metadata["kind"]](**load(content), **metadata["settings"])
        own = ("clf", "hyperparameters", "multilabel", "temperature", "scores", "source")
        named = {key: metadata[key] for key in own}
        if named["source"].get("model") == _OWN_FOLDER:
            named["source"] |= {"model": str(path)}
        return cls(classes=tuple(metadata["classes"]), model=model, **named)

    def as_dict(self) -> dict[str, Any]:
        """Return all but the weights, as JSON holds it."""
        return {
            "clf": self.clf,
            "classes": list(self.classes),
            "multilabel": self.multilabel,
            "kind": self.model.kind,
            "settings": {
                key: value for key, value in vars(self.model).items() if key not in self._arrays
            },
            "n_features": self.model.n_features,
            "hyperparameters": self.hyperparameters,
            "temperature": self.temperature,
            "scores": self.scores,
            "source": self.source,
        }

    @property
    def _arrays(self) -> dict[str, np.ndarray]:
        fields = vars(self.model).items()
        return {name: value for name, value in fields if isinstance(value, np.ndarray)}


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def head_names(folder: str | Path) -> list[str]:
    """Return the names of the heads saved in a folder."""
    return sorted(path.parent.name for path in Path(folder).glob(f"[!.]*/{_METADATA_FILE}"))


def find_head(folder: str | Path, name: str | None = None) -> tuple[str, Head]:
    """Load a head by its name, or the only one that there is.

    Raises
    ------
    DataError
        The folder has no heads.
    UsageError
        It has several and no name was given.
    UnknownNameError
        It has none of that name.
    """
    names = head_names(folder)
    if name is None:
        if not names:
            raise DataError(f"no heads in {str(folder)!r}; 'bottleneck fit-head' makes one")
        if len(names) > 1:
            raise UsageError(
                f"{str(folder)!r} has {len(names)} heads: {', '.join(names)}; choose one with "
                f"--head"
            )
        name = names[0]
    return name, Head.load(Path(folder) / name)
