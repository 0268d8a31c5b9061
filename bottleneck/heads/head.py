"""The fitted head: predict, save, load. Loading one runs no code."""

import hashlib
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from safetensors.numpy import load, save
from scipy.special import log_expit, log_softmax, logsumexp

from bottleneck.errors import DataError, UnknownNameError, UsageError, did_you_mean
from bottleneck.files import atomic_write, read_json, write_json

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Head", "find_head", "head_names", "log_probabilities"]

_SCHEMA_VERSION = 3
_WEIGHTS_FILE = "head.safetensors"
_METADATA_FILE = "head.json"
_ONE_VS_REST = "logreg"


@dataclass(frozen=True, eq=False)
class Head:
    """An affine classifier on features.

    Attributes
    ----------
    clf : str
        The recipe, a key of `bottleneck.heads.RECIPES`.
    classes : tuple of str
        k labels, sorted.
    weight : np.ndarray
        float32 of shape (k, d), standardisation included.
    bias : np.ndarray
        float32 of shape (k,).
    C : float or None
        Inverse strength of the L2 penalty, as in scikit-learn; None for a recipe without one.
    temperature : float
        Divides the scores before they are turned into probabilities; fitted on held-out scores (Guo
        et al. 2017, On Calibration of Modern Neural Networks, section 4), and 1 without any.
    scores : dict
        How `C` was chosen: the held-out accuracy and log loss of each candidate; and how far the
        probabilities of the chosen one were from the truth, with and without its temperature.
    source : dict
        Of which features: model, weights, layer, fingerprint, image set and split digests.
    """

    clf: str
    classes: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    C: float | None
    temperature: float = 1.0
    scores: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)

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
        if X.ndim != 2 or X.shape[1] != self.weight.shape[1]:  # noqa: PLR2004 - rows and columns
            raise UsageError(
                f"features of shape {X.shape} do not fit this head; expected "
                f"(n, {self.weight.shape[1]}): give features of the layer that it was fitted on"
            )
        scores: np.ndarray = X @ self.weight.T + self.bias
        return scores

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities of shape (n_samples, k) whose rows sum to 1."""
        return self.probabilities(self.decision_function(X))

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Turn scores of shape (n_samples, k) into probabilities of the same shape."""
        return np.asarray(np.exp(log_probabilities(self.clf, scores, self.temperature)))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the label with the highest score for each row, shape (n_samples,)."""
        best = self.decision_function(X).argmax(axis=1)
        return np.array([self.classes[place] for place in best])

    def to_module(self) -> "nn.Module":
        """Return the head as a `torch.nn.Linear` whose outputs are the scores."""
        import torch  # noqa: PLC0415 - fitting and saving need no torch

        module = torch.nn.Linear(self.weight.shape[1], self.weight.shape[0])
        module.load_state_dict(
            {"weight": torch.from_numpy(self.weight), "bias": torch.from_numpy(self.bias)}
        )
        return module

    def save(self, folder: str | Path) -> Path:
        """Save as ``head.safetensors`` and ``head.json``.

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
        own = (target / _METADATA_FILE, target / _WEIGHTS_FILE)
        empty = target.is_dir() and not any(target.iterdir())
        if os.path.lexists(target) and not empty and not any(path.is_file() for path in own):
            raise UsageError(
                f"{str(target)!r} is there and is no head; choose another name for the head"
            )
        # safetensors writes an array's memory as it lies, whatever its strides.
        tensors = {"weight": self.weight, "bias": self.bias}
        content = save({name: np.ascontiguousarray(array) for name, array in tensors.items()})
        metadata = {
            "schema": _SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **self.as_dict(),
            "weights_sha256": hashlib.sha256(content).hexdigest(),
        }
        try:
            for evaluation in target.glob("evaluation-*.json"):
                evaluation.unlink()
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
        tensors = load(content)
        return cls(
            clf=metadata["clf"],
            classes=tuple(metadata["classes"]),
            weight=tensors["weight"],
            bias=tensors["bias"],
            C=metadata["C"],
            temperature=metadata["temperature"],
            scores=metadata["scores"],
            source=metadata["source"],
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all but the weights, as JSON holds it."""
        return {
            "clf": self.clf,
            "classes": list(self.classes),
            "n_features": self.weight.shape[1],
            "C": self.C,
            "temperature": self.temperature,
            "scores": self.scores,
            "source": self.source,
        }


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


def log_probabilities(clf: str, scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return log probabilities: of one-vs-rest sigmoids for ``logreg``, else of a softmax.

    Parameters
    ----------
    clf : str
        The recipe.
    scores : np.ndarray
        Shape (n, k).
    temperature : float
        Divides the scores.

    Returns
    -------
    np.ndarray
        Shape (n, k), float64 if the scores are.
    """
    scaled = scores / temperature
    if clf == _ONE_VS_REST:
        each = log_expit(scaled)
        return np.asarray(each - logsumexp(each, axis=1, keepdims=True))
    return np.asarray(log_softmax(scaled, axis=1))
