"""The fitted head: predict, save, load. Loading one runs no code."""

import hashlib
import json
import secrets
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.special import expit, softmax

from bottleneck.errors import DataError, UnknownNameError, UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Head", "find_head", "head_names", "probabilities"]

_SCHEMA_VERSION = 1
_WEIGHTS_FILE = "head.safetensors"
_METADATA_FILE = "head.json"
_ONE_VS_REST = "logreg"


@dataclass(frozen=True, eq=False)
class Head:
    """An affine classifier on features.

    Attributes
    ----------
    clf : str
        The recipe: ``softmax``, ``logreg`` or ``svm``.
    classes : tuple of str
        k labels, sorted.
    weight : np.ndarray
        float32 of shape (k, d), standardisation included.
    bias : np.ndarray
        float32 of shape (k,).
    C : float
        Inverse strength of the L2 penalty, as in scikit-learn.
    temperature : float
        Divides the scores of an SVM before the softmax that turns them into probabilities; fitted
        on held-out scores (Guo et al. 2017, On Calibration of Modern Neural Networks, section 4).
        1 for the other recipes.
    scores : dict
        How `C` was chosen: the held-out accuracy and log loss of each candidate.
    source : dict
        Of which features: model, weights, layer, fingerprint, image set and split digests.
    """

    clf: str
    classes: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    C: float
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
        return probabilities(self.clf, self.decision_function(X), self.temperature)

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
        """Save as ``head.safetensors`` and ``head.json``, whole or not at all.

        A head that is already in `folder` is replaced.

        Raises
        ------
        UsageError
            `folder` is there and is no head.
        DataError
            The folder cannot be written.
        """
        target = Path(folder)
        if target.exists() and not (target / _METADATA_FILE).is_file():
            raise UsageError(
                f"{str(target)!r} is there and is no head; choose another name for the head"
            )
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
        try:
            temporary.mkdir(parents=True)
            # safetensors writes an array's memory as it lies, whatever its strides.
            tensors = {"weight": self.weight, "bias": self.bias}
            tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
            new = temporary / "new"
            new.mkdir()
            save_file(tensors, new / _WEIGHTS_FILE)
            text = json.dumps(self._metadata(new), indent=2, allow_nan=False)
            (new / _METADATA_FILE).write_text(text)
            if target.exists():
                target.rename(temporary / "previous")
            (temporary / "new").rename(target)
        except OSError as error:
            raise DataError(
                f"the head cannot be saved as {str(target)!r} ({error.strerror}); choose another "
                f"folder with --heads"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load a saved head; nothing in it is run.

        Raises
        ------
        UnknownNameError
            There is no head in `folder`.
        DataError
            Its files are damaged, or do not belong together.
        """
        path = Path(folder)
        if not (path / _METADATA_FILE).is_file():
            near = did_you_mean(path.name, head_names(path.parent))
            raise UnknownNameError(
                f"no head {path.name!r} in {str(path.parent)!r}{near}; 'bottleneck fit-head' makes "
                f"one"
            )
        try:
            metadata = json.loads((path / _METADATA_FILE).read_text())
            tensors = load_file(path / _WEIGHTS_FILE)
            head = cls(
                clf=str(metadata["clf"]),
                classes=tuple(map(str, metadata["classes"])),
                weight=tensors["weight"],
                bias=tensors["bias"],
                C=float(metadata["C"]),
                temperature=float(metadata["temperature"]),
                scores=dict(metadata["scores"]),
                source=dict(metadata["source"]),
            )
            same_file = metadata["weights_sha256"] == _digest(path / _WEIGHTS_FILE)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(
                f"the head in {str(path)!r} cannot be read ({type(error).__name__}); fit it again"
            ) from error
        shapes = (head.weight.shape[:1], head.bias.shape)
        if not same_file or shapes != ((len(head.classes),),) * 2 or not head.temperature > 0:
            raise DataError(
                f"{_WEIGHTS_FILE} and {_METADATA_FILE} in {str(path)!r} do not belong together; "
                f"fit the head again"
            )
        return head

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

    def _metadata(self, folder: Path) -> dict[str, Any]:
        return {
            "schema": _SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **self.as_dict(),
            "weights_sha256": _digest(folder / _WEIGHTS_FILE),
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


def probabilities(clf: str, scores: np.ndarray, temperature: float) -> np.ndarray:
    """Turn scores into probabilities: one-vs-rest sigmoids for ``logreg``, else a softmax."""
    if clf == _ONE_VS_REST:
        each = expit(scores)
        total = each.sum(axis=1, keepdims=True)
        return np.asarray(each / np.maximum(total, np.finfo(each.dtype).tiny))
    return np.asarray(softmax(scores / temperature, axis=1))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
