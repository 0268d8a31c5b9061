"""The available classifiers and how each is fitted."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np

from bottleneck.heads.models import Affine, Neighbours
from bottleneck.heads.problem import Fitted, Fold, Problem, Progress
from bottleneck.heads.streaming import Pair, pairs_of, stream, stream_scores
from bottleneck.settings import MLPSettings
from bottleneck.solvers import Reduction, threads_for
from bottleneck.solvers.closed_form import fit_centroids, fit_lda, fit_ridge

__all__ = ["C_GRID", "MLP", "RECIPES", "Linear", "Nearest", "Recipe"]

C_GRID = tuple(float(f"1e{exponent}") for exponent in range(-6, 2))
_STOPPING_FOLDS = 5
"""Number of folds for a network, of which the first is held out for early stopping."""

Solved = Iterator[tuple[list[Pair], bool]]
"""For each `C`, the solutions of all folds on reduced rows, and whether all converged."""
Method = Callable[[Problem, Reduction, np.ndarray, Sequence[Any]], Solved]
"""Fits a reduced problem on all folds, bool of shape (n, f), for all values of `C`; a recipe
without `C` gets one value, None."""


class Recipe(ABC):
    """How a classifier is fitted.

    Attributes
    ----------
    name : str
        Its key in `RECIPES`.
    parameter : str or None
        The hyperparameter that is chosen on held-out rows: ``C``, ``n_neighbors`` or None.
    grid : sequence
        Candidates for it; only None if there is no such hyperparameter.
    settings : dict
        Other hyper-parameters.
    margins : bool
        Whether its scores are margins or distances, which give probabilities only after
        calibration.
    multilabel : bool
        Whether rows may have several classes.
    streams : bool
        Whether its features may be `StreamedRows`.
    """

    name: str
    parameter: str | None = None
    grid: Sequence[Any] = (None,)
    margins: bool = False
    multilabel: bool = True
    streams: ClassVar[bool] = False

    @property
    def settings(self) -> dict[str, Any]:  # noqa: D102 - see Attributes
        return {}

    @abstractmethod
    def fit(self, problem: Problem, value: Any) -> Fitted:
        """Fit on all rows, for one value of the hyperparameter.

        Parameters
        ----------
        problem : Problem
            n rows.
        value : Any
            Value of the hyperparameter; None if the classifier has none.

        Returns
        -------
        Fitted
            The model, and whether its solver converged.

        Raises
        ------
        DataError
            The training of a network diverged.
        """

    @abstractmethod
    def held_out(
        self, problem: Problem, folds: Sequence[Fold], grid: Sequence[Any]
    ) -> Iterator[list[np.ndarray]]:
        """Yield, for each value, the scores (m, k) of each fold's held-out rows.

        Parameters
        ----------
        problem : Problem
            n rows.
        folds : sequence of Fold
            Rows to fit on and rows held out.
        grid : sequence
            Values of the hyperparameter.

        Yields
        ------
        list of np.ndarray
            For each fold, scores of shape (m, k) in the order of the held-out rows.

        Raises
        ------
        DataError
            The training of a network diverged.
        """


@dataclass(frozen=True)
class Linear(Recipe):
    """A classifier with scores linear in the features, fitted on reduced rows."""

    name: str
    method: Method
    parameter: str | None = "C"
    grid: Sequence[float | None] = C_GRID
    margins: bool = False
    multilabel: bool = True

    def fit(self, problem: Problem, value: float | None) -> Fitted:
        """As `Recipe.fit`."""
        reduction, everyone = problem.reduction(), np.ones((len(problem.X), 1), dtype=bool)
        (([pair], converged),) = self.method(problem, reduction, everyone, [value])
        weight, bias = reduction.lift(*pair, problem.rows)
        return Fitted(Affine(weight.astype(np.float32), bias.astype(np.float32)), converged)

    def held_out(
        self, problem: Problem, folds: Sequence[Fold], grid: Sequence[float | None]
    ) -> Iterator[list[np.ndarray]]:
        """As `Recipe.held_out`."""
        found: list[list[np.ndarray]] = [[] for _ in grid]
        # Standard deviations differ between folds; without them, one reduction serves all folds.
        for some in [[fold] for fold in folds] if problem.standardize else [list(folds)]:
            fit = np.stack([fold.fit for fold in some], axis=1)
            reduction = problem.reduction(some[0].fit if problem.standardize else None)
            solved = self.method(problem, reduction, fit, grid)
            for own, (pairs, _) in zip(found, solved, strict=True):
                for fold, (weight, bias) in zip(some, pairs, strict=True):
                    own.append(reduction.rows[fold.held] @ weight.T + bias)
        yield from found


@dataclass(frozen=True)
class _Path:
    """A solver for all values of `C` and all folds at once."""

    loss: str

    def __call__(
        self, problem: Problem, reduction: Reduction, fit: np.ndarray, grid: Sequence[float]
    ) -> Solved:
        from bottleneck.solvers.path import fit_path

        codes, counts = problem.targets.codes, problem.counts(fit)
        for point in fit_path(reduction.rows, codes, counts, grid, self.loss):
            yield pairs_of(point, codes, self.loss), bool(point.converged.all())


@dataclass(frozen=True)
class Iterated(Linear):
    """A linear classifier fitted iteratively, which can also stream features in blocks."""

    method: _Path
    streams: ClassVar[bool] = True

    def fit(self, problem: Problem, value: Any) -> Fitted:
        """As `Recipe.fit`."""
        X = problem.X
        if isinstance(X, np.ndarray):
            return super().fit(problem, value)
        everyone = np.ones((len(X), 1), dtype=bool)
        ((([weight, bias],), converged),) = stream(problem, X, self.method.loss, everyone, [value])
        return Fitted(Affine(weight.astype(np.float32), bias.astype(np.float32)), converged)

    def held_out(
        self, problem: Problem, folds: Sequence[Fold], grid: Sequence[Any]
    ) -> Iterator[list[np.ndarray]]:
        """As `Recipe.held_out`."""
        if isinstance(problem.X, np.ndarray):
            return super().held_out(problem, folds, grid)
        return stream_scores(problem, problem.X, self.method.loss, folds, grid)


class Nearest(Recipe):
    """The k-nearest-neighbour classifier."""

    name, parameter, grid = "knn", "n_neighbors", (1, 3, 5, 9, 17, 33)

    def fit(self, problem: Problem, value: int) -> Fitted:
        """As `Recipe.fit`."""
        n_samples, targets = len(problem.rows), problem.targets
        mean, scale = (each.astype(np.float32) for each in problem.moments())
        counts = problem.counts(np.ones((n_samples, 1)))[:, 0].astype(np.float32)
        counts = (counts / counts.mean()).reshape(n_samples, -1)  # a vote is one vote
        votes = targets.indicators * counts
        model = Neighbours(
            rows=((problem.rows - mean) / scale).astype(np.float32, copy=False),
            votes=votes,
            counts=np.broadcast_to(counts, votes.shape).copy(),
            mean=mean,
            scale=scale,
            n_neighbors=value,
            multilabel=targets.multilabel,
        )
        return Fitted(model)

    def held_out(
        self, problem: Problem, folds: Sequence[Fold], grid: Sequence[int]
    ) -> Iterator[list[np.ndarray]]:
        """As `Recipe.held_out`; one search finds the neighbours for all values."""
        found: list[list[np.ndarray]] = [[] for _ in grid]
        for fold in folds:
            model: Any = self.fit(problem.take(fold.fit), max(grid)).model
            nearest = model.nearest(problem.rows[fold.held])
            for own, value in zip(found, grid, strict=True):
                own.append(model.scores_of(nearest[:, :value]))
        yield from found


def _ridge(problem: Problem, reduction: Reduction, fit: np.ndarray, grid: Sequence[Any]) -> Solved:
    codes, counts = problem.targets.codes, problem.counts(fit).swapaxes(0, 1)
    folds = [fit_ridge(reduction.rows, codes, fold, grid) for fold in counts]
    for pairs in zip(*folds, strict=True):
        yield list(pairs), True


def _lda(problem: Problem, reduction: Reduction, fit: np.ndarray, _grid: Sequence[Any]) -> Solved:
    codes, n_features = problem.targets.codes, len(reduction.mean)
    counts = problem.counts(fit)
    yield [fit_lda(reduction.rows, codes, fold, n_features) for fold in counts.T], True


def _centroid(
    problem: Problem, reduction: Reduction, fit: np.ndarray, _grid: Sequence[Any]
) -> Solved:
    codes, counts = problem.targets.codes, problem.counts(fit)
    yield [fit_centroids(reduction.rows, codes, fold) for fold in counts.T], True


class MLP(Recipe, MLPSettings):
    """The recipe of a network, see `bottleneck.settings.MLPSettings`."""

    name = "mlp"

    @classmethod
    def of(cls, given: MLPSettings) -> Self:
        """Build the recipe from settings, which may be a subclass.

        Parameters
        ----------
        given : MLPSettings
            The settings, which may have further fields.

        Returns
        -------
        MLP
        """
        return cls(**{each.name: getattr(given, each.name) for each in fields(MLPSettings)})

    @property
    def settings(self) -> dict[str, Any]:
        """As `Recipe.settings`."""
        return asdict(self)

    def fit(self, problem: Problem, value: None) -> Fitted:  # noqa: ARG002 - there is no parameter
        """As `Recipe.fit`; a fifth of the rows is held out for early stopping."""
        return self.fit_on(problem, problem.folds(_STOPPING_FOLDS, fewer=True)[0])

    def held_out(
        self,
        problem: Problem,
        folds: Sequence[Fold],
        grid: Sequence[None],  # noqa: ARG002 - there is no parameter
    ) -> Iterator[list[np.ndarray]]:
        """As `Recipe.held_out`; early stopping never uses the held-out rows."""
        fitted = [self.fit(problem.take(fold.fit), None) for fold in folds]
        yield [
            each.model.scores(problem.rows[fold.held])
            for each, fold in zip(fitted, folds, strict=True)
        ]

    def fit_on(self, problem: Problem, fold: Fold, progress: Progress | None = None) -> Fitted:
        """Train on one part of the rows, with early stopping on the held-out part.

        Parameters
        ----------
        problem : Problem
            n rows.
        fold : Fold
            Rows to train on and rows held out.
        progress : callable, optional
            Called with ``"mlp"``, the number of epochs done and the maximum.

        Returns
        -------
        Fitted

        Raises
        ------
        DataError
            The training diverged.
        """
        from bottleneck.heads.modules import train

        with threads_for(problem.X.size):  # again, as PyTorch is loaded only now
            return train(self, problem.take(fold.fit), problem.take(fold.held), progress)


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Iterated("softmax", _Path("softmax"), multilabel=False),
        Iterated("logreg", _Path("logistic")),
        Iterated("svm", _Path("squared_hinge"), margins=True),
        Linear("ridge", _ridge, margins=True),
        Linear("lda", _lda, None, (None,), multilabel=False),
        Linear("centroid", _centroid, None, (None,), margins=True, multilabel=False),
        Nearest(),
        MLP(),
    )
}
"""Classifiers by name: multinomial and one-vs-rest logistic regression, linear SVM with squared
hinge, ridge regression, linear discriminants, the nearest class mean, the nearest neighbours, and
a network with a hidden layer."""
