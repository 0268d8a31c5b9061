"""What a head computes of features: arrays, and how they become scores."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bottleneck.records import HeadRecord

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MODELS", "Affine", "Model", "Neighbours", "Perceptron", "make_model"]

_BLOCK_BYTES = 2**27


class Model(ABC):
    """Scores of features. Its arrays and numbers are the fields of a dataclass.

    Attributes
    ----------
    kind : str
        Names the class in a saved head.
    shapes : mapping of str to str
        What the axes of each array are, a letter each: ``k`` classes, ``d`` features, and others.
        The columns of the first one are the features.
    """

    kind: ClassVar[str]
    shapes: ClassVar[Mapping[str, str]]

    @property
    def n_features(self) -> int:
        """How many features it takes."""
        return int(getattr(self, next(iter(self.shapes))).shape[1])

    @abstractmethod
    def scores(self, X: np.ndarray) -> np.ndarray:
        """Return scores of shape (n, k) of features of shape (n, d)."""

    @abstractmethod
    def to_module(self) -> "nn.Module":
        """Return what gives the same scores in torch."""


@dataclass(frozen=True, eq=False)
class Affine(Model):
    """One score per class, linear in the features.

    Attributes
    ----------
    weight, bias : np.ndarray
        Shapes (k, d) and (k,).
    """

    kind: ClassVar[str] = "affine"
    shapes: ClassVar[Mapping[str, str]] = {"weight": "kd", "bias": "k"}
    weight: np.ndarray
    bias: np.ndarray

    def scores(self, X: np.ndarray) -> np.ndarray:
        """As `Model.scores`."""
        return np.asarray(X @ self.weight.T + self.bias)

    def to_module(self) -> "nn.Module":
        """Return a `torch.nn.Linear`."""
        return _linear(self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class Perceptron(Model):
    """A hidden layer of rectified units between the features and the scores.

    Attributes
    ----------
    hidden_weight, hidden_bias : np.ndarray
        Shapes (h, d) and (h,).
    weight, bias : np.ndarray
        Shapes (k, h) and (k,).
    dropout : float
        Share of hidden units that were left out in a step of its training; scores use all.
    """

    kind: ClassVar[str] = "mlp"
    shapes: ClassVar[Mapping[str, str]] = {
        "hidden_weight": "hd",
        "hidden_bias": "h",
        "weight": "kh",
        "bias": "k",
    }
    hidden_weight: np.ndarray
    hidden_bias: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    dropout: float

    def scores(self, X: np.ndarray) -> np.ndarray:
        """As `Model.scores`."""
        hidden = np.maximum(X @ self.hidden_weight.T + self.hidden_bias, 0)
        return np.asarray(hidden @ self.weight.T + self.bias)

    def to_module(self) -> "nn.Module":
        """Return a `torch.nn.Sequential` of two linear layers, for more training or none."""
        from torch import nn

        hidden = _linear(self.hidden_weight, self.hidden_bias)
        last = _linear(self.weight, self.bias)
        return nn.Sequential(hidden, nn.ReLU(), nn.Dropout(self.dropout), last).eval()


@dataclass(frozen=True, eq=False)
class Neighbours(Model):
    """Votes of the nearest rows among those fitted on.

    A score is the log of the share of votes, or of its odds where a row may be of several classes.
    One vote more is split evenly, as no share is 0 or 1 for sure.

    Attributes
    ----------
    rows : np.ndarray
        Shape (m, d), less the `mean` and divided by the `scale`.
    votes : np.ndarray
        Shape (m, k): what each row says for each class.
    counts : np.ndarray
        Shape (m, k): what each row counts, whatever it says.
    mean, scale : np.ndarray
        Shape (d,): what is subtracted of features, and what they are divided by, before distances
        are taken.
    n_neighbors : int
        How many vote.
    multilabel : bool
        Whether a row may be of several classes.
    """

    kind: ClassVar[str] = "knn"
    shapes: ClassVar[Mapping[str, str]] = {
        "rows": "md",
        "votes": "mk",
        "counts": "mk",
        "mean": "d",
        "scale": "d",
    }
    rows: np.ndarray
    votes: np.ndarray
    counts: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    n_neighbors: int
    multilabel: bool

    def scores(self, X: np.ndarray) -> np.ndarray:
        """As `Model.scores`."""
        return self.scores_of(self.nearest(X))

    def nearest(self, X: np.ndarray) -> np.ndarray:
        """Return the places of the `n_neighbors` nearest rows, nearest first."""
        squares = np.einsum("ij,ij->i", self.rows, self.rows)
        at_once = max(1, _BLOCK_BYTES // (8 * max(1, *self.rows.shape)))
        found = []
        for start in range(0, len(X), at_once):
            # The square of a row of X is the same for all that it is compared with.
            standard = (X[start : start + at_once] - self.mean) / self.scale
            distances = squares - 2 * standard @ self.rows.T
            last = min(self.n_neighbors, len(self.rows)) - 1
            some = np.argpartition(distances, last, axis=1)[:, : last + 1]
            order = np.argsort(np.take_along_axis(distances, some, axis=1), axis=1, kind="stable")
            found.append(np.take_along_axis(some, order, axis=1))
        return np.concatenate(found)

    def scores_of(self, nearest: np.ndarray) -> np.ndarray:
        """Return scores by the votes of rows, whose places have the shape (n, neighbours)."""
        said, there = self.votes[nearest].sum(axis=1), self.counts[nearest].sum(axis=1)
        if self.multilabel:
            return np.asarray(np.log(said + 0.5) - np.log(there - said + 0.5))
        return np.asarray(np.log((said + 1 / said.shape[1]) / (there + 1)))

    def to_module(self) -> "nn.Module":
        """Return a module that holds the rows and searches them."""
        from bottleneck.heads.modules import NearestRows

        arrays = {name: getattr(self, name) for name in self.shapes}
        return NearestRows(arrays, self.n_neighbors, multilabel=self.multilabel)


MODELS: Mapping[str, type[Any]] = {each.kind: each for each in (Affine, Perceptron, Neighbours)}
"""Models by their kind."""


def make_model(record: HeadRecord, arrays: Mapping[str, np.ndarray]) -> Model:
    """Return the model that a head's record describes; `ValueError` where the arrays do not fit."""
    kind = MODELS[record.kind]
    settings = {each.name for each in fields(kind)} - set(kind.shapes)
    given, needed = {*arrays, *record.settings}, settings | set(kind.shapes)
    if given != needed:
        raise ValueError(
            f"a model of the kind {record.kind!r} has {', '.join(sorted(given)) or 'nothing'}, "
            f"expected {', '.join(sorted(needed))}"
        )
    sizes = {"k": len(record.classes), "d": record.n_features}
    for name, axes in kind.shapes.items():
        array = arrays[name]
        if len(axes) == array.ndim:
            sizes = dict(zip(axes, array.shape, strict=True)) | sizes
        expected = tuple(sizes.get(axis, axis) for axis in axes)
        if array.shape != expected or array.dtype.kind != "f":
            raise ValueError(
                f"{name} has the shape {array.shape} of {array.dtype}, expected floating numbers "
                f"of shape {expected}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds nan or inf, expected finite numbers")
    model: Model = kind(**arrays, **record.settings)
    return model


def _linear(weight: np.ndarray, bias: np.ndarray) -> "nn.Linear":
    import torch

    module = torch.nn.Linear(weight.shape[1], weight.shape[0])
    module.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    return module
