"""The models of heads: arrays, and how they turn features into scores."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, get_args, get_origin

import numpy as np

from bottleneck.errors import DataError
from bottleneck.records import HeadRecord

if TYPE_CHECKING:
    from bottleneck.heads.choosing import Choice

__all__ = ["MODELS", "Affine", "Fitted", "Model", "Neighbours", "Perceptron", "make_model"]

_BLOCK_BYTES = 2**27


class Model(ABC):
    """Computes scores of features. Its arrays and numbers are the fields of a dataclass.

    The annotation of an array names its axes, one letter each: ``k`` classes, ``d`` features, and
    others. The columns of the first array are the features.

    Attributes
    ----------
    kind : str
        Name of the class in a saved head.
    """

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        """Raise a `DataError` if an array is not finite."""
        for name, array in self.arrays.items():
            if not np.isfinite(array).all():
                raise DataError(
                    f"{name} contains nan or inf, expected finite numbers; fit the head on "
                    f"features without extreme values, or with a lower `C` or learning rate"
                )

    @classmethod
    def axes(cls) -> dict[str, str]:
        """Return the names of the arrays and the axes of each."""
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
        """Number of features."""
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

    def finite_scores(self, X: np.ndarray) -> np.ndarray:
        """Return `scores`, if all are finite.

        Parameters
        ----------
        X : np.ndarray
            Features, shape (n, d).

        Returns
        -------
        np.ndarray
            Shape (n, k).

        Raises
        ------
        DataError
            A score is nan or inf, as the features are, or they or the weights are too large.
        """
        with np.errstate(all="ignore"):
            found = self.scores(X)
        if not (np.isfinite(found).all() and np.isfinite(X).all()):
            raise DataError(
                "the head gives scores that are nan or inf; expected finite features of the layer "
                "that it was fitted on: check them, or fit the head again"
            )
        return found


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
        Dropout rate used in training; scoring uses all hidden units.
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

    A score is the log of a class's share of the votes, or its log odds if rows may have several
    classes. One extra vote is spread evenly, so that no share is exactly 0 or 1.

    Attributes
    ----------
    rows : np.ndarray
        Shape (m, d): training rows, standardised by `mean` and `scale`.
    votes : np.ndarray
        Shape (m, k): the weight of each row for its own classes, 0 for others.
    counts : np.ndarray
        Shape (m, k): the weight of each row for all classes.
    mean, scale : np.ndarray
        Shape (d,): subtracted from features, and divisor of them, before distances are computed.
    n_neighbors : int
        Number of neighbours that vote.
    multilabel : bool
        Whether a row may have several classes.
    """

    kind: ClassVar[str] = "knn"
    rows: Annotated[np.ndarray, "md"]
    votes: Annotated[np.ndarray, "mk"]
    counts: Annotated[np.ndarray, "mk"]
    mean: Annotated[np.ndarray, "d"]
    scale: Annotated[np.ndarray, "d"]
    n_neighbors: int
    multilabel: bool

    def __post_init__(self) -> None:
        """As for `Model`; and no distance may be a division by 0, and no vote negative."""
        super().__post_init__()
        for name, least in {"scale": np.finfo(np.float32).tiny, "votes": 0, "counts": 0}.items():
            if self.arrays[name].size and self.arrays[name].min() < least:
                raise DataError(f"{name} must be at least {least:g}; fit the head again")

    def scores(self, X: np.ndarray) -> np.ndarray:
        """As `Model.scores`."""
        return self.scores_of(self.nearest(X))

    def nearest(self, X: np.ndarray) -> np.ndarray:
        """Return the indices of the `n_neighbors` nearest rows, nearest first.

        Parameters
        ----------
        X : np.ndarray
            Features, shape (n, d).

        Returns
        -------
        np.ndarray
            int of shape (n, n_neighbors), or fewer columns if there are fewer rows.
        """
        squares = np.einsum("ij,ij->i", self.rows, self.rows)
        at_once = max(1, _BLOCK_BYTES // (8 * max(1, *self.rows.shape)))
        found = []
        for start in range(0, len(X), at_once):
            # The squared norm of a row of X is the same for all candidates, so it is left out.
            standard = (X[start : start + at_once] - self.mean) / self.scale
            distances = squares - 2 * standard @ self.rows.T
            last = min(self.n_neighbors, len(self.rows)) - 1
            some = np.argpartition(distances, last, axis=1)[:, : last + 1]
            order = np.argsort(np.take_along_axis(distances, some, axis=1), axis=1, kind="stable")
            found.append(np.take_along_axis(some, order, axis=1))
        return np.concatenate(found)

    def scores_of(self, nearest: np.ndarray) -> np.ndarray:
        """Return scores from the votes of neighbours, given as indices of shape (n, neighbours).

        Parameters
        ----------
        nearest : np.ndarray
            The result of `nearest`.

        Returns
        -------
        np.ndarray
            Log odds, or log probabilities unless `multilabel`; shape (n, k).
        """
        said, there = self.votes[nearest].sum(axis=1), self.counts[nearest].sum(axis=1)
        if self.multilabel:
            return np.asarray(np.log(said + 0.5) - np.log(there - said + 0.5))
        return np.asarray(np.log((said + 1 / said.shape[1]) / (there + 1)))


class Fitted(NamedTuple):
    """The result of a fit.

    Attributes
    ----------
    model : Model
        Model of raw features.
    converged : bool
        Whether the solver converged.
    history : list of dict
        Metrics of each epoch, for a network.
    choice : Choice or None
        The choice of the epoch, for a network.
    """

    model: Model
    converged: bool = True
    history: Sequence[dict[str, Any]] = ()
    choice: "Choice | None" = None


MODELS: Mapping[str, type[Any]] = {each.kind: each for each in (Affine, Perceptron, Neighbours)}
"""Models by their kind."""


def make_model(record: HeadRecord, arrays: Mapping[str, np.ndarray]) -> Model:
    """Build the model that a head's record describes; `ValueError` if the arrays do not fit.

    Parameters
    ----------
    record : HeadRecord
        Record of the head.
    arrays : mapping of str to np.ndarray
        The model's arrays by name.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        An array or setting is missing, unknown, not finite, or of another shape or type.
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
                f"{name} has the shape {array.shape} of {array.dtype}, expected floating-point "
                f"numbers of shape {expected}"
            )
    model: Model = kind(**arrays, **record.settings)
    return model
