"""What a head computes of features: arrays, and how they become scores."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, get_args, get_origin

import numpy as np

from bottleneck.records import HeadRecord

__all__ = ["MODELS", "Affine", "Model", "Neighbours", "Perceptron", "make_model"]

_BLOCK_BYTES = 2**27


class Model(ABC):
    """Scores of features. Its arrays and numbers are the fields of a dataclass.

    An array is annotated with what its axes are, a letter each: ``k`` classes, ``d`` features, and
    others. The columns of the first one are the features.

    Attributes
    ----------
    kind : str
        Names the class in a saved head.
    """

    kind: ClassVar[str]

    @classmethod
    def axes(cls) -> dict[str, str]:
        """Return the names of the arrays, and what the axes of each are."""
        return {
            each.name: get_args(each.type)[1]
            for each in fields(cls)  # type: ignore[arg-type]
            if get_origin(each.type) is Annotated
        }

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {name: getattr(self, name) for name in self.axes()}

    @property
    def n_features(self) -> int:
        """How many features it takes."""
        return int(next(iter(self.arrays.values())).shape[1])

    @abstractmethod
    def scores(self, X: np.ndarray) -> np.ndarray:
        """Return scores of shape (n, k) of features of shape (n, d).

        Parameters
        ----------
        X : np.ndarray
            Features, shape (n, d).

        Returns
        -------
        np.ndarray
            Shape (n, k), also for two classes.
        """


@dataclass(frozen=True, eq=False)
class Affine(Model):
    """One score per class, linear in the features.

    Attributes
    ----------
    weight, bias : np.ndarray
        Shapes (k, d) and (k,).
    """

    kind: ClassVar[str] = "affine"
    weight: Annotated[np.ndarray, "kd"]
    bias: Annotated[np.ndarray, "k"]

    def scores(self, X: np.ndarray) -> np.ndarray:
        """As `Model.scores`."""
        return np.asarray(X @ self.weight.T + self.bias)


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
    hidden_weight: Annotated[np.ndarray, "hd"]
    hidden_bias: Annotated[np.ndarray, "h"]
    weight: Annotated[np.ndarray, "kh"]
    bias: Annotated[np.ndarray, "k"]
    dropout: float

    def scores(self, X: np.ndarray) -> np.ndarray:
        """As `Model.scores`."""
        hidden = np.maximum(X @ self.hidden_weight.T + self.hidden_bias, 0)
        return np.asarray(hidden @ self.weight.T + self.bias)


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
        Shape (m, k): the weight of each row in its own classes, 0 in others.
    counts : np.ndarray
        Shape (m, k): the weight of each row, whatever its classes.
    mean, scale : np.ndarray
        Shape (d,): what is subtracted of features, and what they are divided by, before distances
        are taken.
    n_neighbors : int
        How many vote.
    multilabel : bool
        Whether a row may be of several classes.
    """

    kind: ClassVar[str] = "knn"
    rows: Annotated[np.ndarray, "md"]
    votes: Annotated[np.ndarray, "mk"]
    counts: Annotated[np.ndarray, "mk"]
    mean: Annotated[np.ndarray, "d"]
    scale: Annotated[np.ndarray, "d"]
    n_neighbors: int
    multilabel: bool

    def scores(self, X: np.ndarray) -> np.ndarray:
        """As `Model.scores`."""
        return self.scores_of(self.nearest(X))

    def nearest(self, X: np.ndarray) -> np.ndarray:
        """Return the places of the `n_neighbors` nearest rows, nearest first.

        Parameters
        ----------
        X : np.ndarray
            Features, shape (n, d).

        Returns
        -------
        np.ndarray
            int of shape (n, n_neighbors), or fewer columns where there are fewer rows.
        """
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
        """Return scores by the votes of rows, whose places have the shape (n, neighbours).

        Parameters
        ----------
        nearest : np.ndarray
            As `nearest` returns them.

        Returns
        -------
        np.ndarray
            Log odds, or log probabilities unless `multilabel`; shape (n, k).
        """
        said, there = self.votes[nearest].sum(axis=1), self.counts[nearest].sum(axis=1)
        if self.multilabel:
            return np.asarray(np.log(said + 0.5) - np.log(there - said + 0.5))
        return np.asarray(np.log((said + 1 / said.shape[1]) / (there + 1)))


MODELS: Mapping[str, type[Any]] = {each.kind: each for each in (Affine, Perceptron, Neighbours)}
"""Models by their kind."""


def make_model(record: HeadRecord, arrays: Mapping[str, np.ndarray]) -> Model:
    """Return the model that a head's record describes; `ValueError` where the arrays do not fit.

    Parameters
    ----------
    record : HeadRecord
        What is known of the head.
    arrays : mapping of str to np.ndarray
        The model's arrays, by their names.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        An array or setting is missing or unknown, of another shape or type, or not finite.
    """
    kind = MODELS[record.kind]
    given, needed = {*arrays, *record.settings}, {each.name for each in fields(kind)}
    if given != needed:
        raise ValueError(
            f"a model of the kind {record.kind!r} has {', '.join(sorted(given)) or 'nothing'}, "
            f"expected {', '.join(sorted(needed))}"
        )
    sizes = {"k": len(record.classes), "d": record.n_features}
    for name, axes in kind.axes().items():
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
