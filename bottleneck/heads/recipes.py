"""The available classifiers and how each is fitted."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np

from bottleneck.errors import UsageError, counted
from bottleneck.heads.models import Affine, Fitted, Neighbours
from bottleneck.heads.problem import Fold, Problem, Progress, Watch
from bottleneck.settings import MLPSettings
from bottleneck.solvers import Reduction, is_reducible, threads_for
from bottleneck.solvers.closed_form import Solution, fit_centroids, fit_lda, fit_ridge, solutions_of

__all__ = ["C_GRID", "MLP", "RECIPES", "Linear", "Nearest", "Recipe"]

C_GRID = tuple(float(f"1e{exponent}") for exponent in range(-6, 2))
_STOPPING_FOLDS = 5
"""Number of folds for a network, of which the first is held out for early stopping."""

ClosedForm = Callable[[Reduction, np.ndarray, np.ndarray, Sequence[Any]], Sequence[Solution]]
"""Takes reduced rows, their classes and sample weights, and the values of `C`, or one None."""


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
    reduces : bool
        Whether it is fitted on reduced rows, see `bottleneck.solvers.is_reducible`.
    """

    name: str
    parameter: str | None = None
    grid: Sequence[Any] = (None,)
    margins: bool = False
    multilabel: bool = True
    streams: bool = False
    reduces: bool = False

    @property
    def settings(self) -> dict[str, Any]:  # noqa: D102 - see Attributes
        return {}

    def values_for(self, rows: int, given: Sequence[Any] = ()) -> Sequence[Any]:  # noqa: ARG002
        """Return the values of the hyperparameter to try; `UsageError` for a value above `rows`.

        Parameters
        ----------
        rows : int
            Number of rows to fit on, in the smallest fold.
        given : sequence
            Values that the user gave; by default `grid`, as far as the rows suffice.
        """
        return given or self.grid

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
        UsageError
            There are too few rows for the value.
        """

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
        for value in grid:
            fitted = [self.fit(problem.take(fold.fit), value).model for fold in folds]
            yield [
                model.scores(problem.rows[fold.held])
                for model, fold in zip(fitted, folds, strict=True)
            ]


@dataclass(frozen=True)
class Linear(Recipe):
    """A classifier with scores linear in the features.

    Attributes
    ----------
    solver : str or callable
        A loss, which is minimised iteratively and takes streamed features, too; or a closed form.
    """

    name: str
    solver: str | ClosedForm
    parameter: str | None = "C"
    grid: Sequence[float | None] = C_GRID
    margins: bool = False
    multilabel: bool = True
    reduces: bool = True

    @property
    def streams(self) -> bool:  # type: ignore[override]
        """As `Recipe.streams`."""
        return isinstance(self.solver, str)

    def fit(self, problem: Problem, value: Any) -> Fitted:
        """As `Recipe.fit`."""
        everyone = np.ones(len(problem.X), dtype=bool)
        if is_reducible(problem.X):
            reduction = problem.reduction()
            ((weight, bias, converged),) = self._solve(problem, reduction, everyone, [value])
            weight, bias = reduction.lift(weight, bias, problem.X)
        else:
            (((weight, bias, converged),),) = self._stream(problem, [everyone], [value])
        model = Affine(weight.astype(np.float32), bias.astype(np.float32))
        return Fitted(model, bool(converged))

    def held_out(
        self, problem: Problem, folds: Sequence[Fold], grid: Sequence[Any]
    ) -> Iterator[list[np.ndarray]]:
        """As `Recipe.held_out`."""
        if not is_reducible(problem.X):
            from bottleneck.solvers.streamed import stream_scores

            X: Any = problem.X
            solutions = self._stream(problem, [fold.fit for fold in folds], grid)
            yield from stream_scores(X.blocks, [fold.held for fold in folds], solutions, X.memory)
            return
        found: list[list[np.ndarray]] = [[] for _ in grid]
        # Standard deviations differ between folds; without them, one reduction serves all folds.
        shared = None if problem.standardize else problem.reduction()
        for fold in folds:
            reduction = shared or problem.reduction(fold.fit)
            solved = self._solve(problem, reduction, fold.fit, grid)
            for own, (weight, bias, _) in zip(found, solved, strict=True):
                own.append(reduction.rows[fold.held] @ weight.T + bias)
        yield from found

    def _solve(
        self, problem: Problem, reduction: Reduction, fit: np.ndarray, grid: Sequence[Any]
    ) -> Sequence[Solution]:
        """Return a solution for each `C`, on reduced rows."""
        codes, weights = problem.targets.codes, problem.sample_weights(fit)
        if not isinstance(self.solver, str):
            return self.solver(reduction, codes, weights, grid)

        from bottleneck.solvers.path import fit_path

        points = fit_path(reduction.rows, codes, weights[:, None], grid, self.solver)
        return [
            solutions_of(point, self.solver, len(problem.targets.classes))[0] for point in points
        ]

    def _stream(
        self, problem: Problem, fits: Sequence[np.ndarray], grid: Sequence[float]
    ) -> list[list[Solution]]:
        """Return for each `C` the solutions of folds, on raw features."""
        from bottleneck.solvers.streamed import stream_path

        X: Any = problem.X
        loss = str(self.solver)
        points = stream_path(
            X.blocks,
            problem.targets.codes,
            np.stack([problem.sample_weights(fit) for fit in fits], axis=1),
            grid,
            loss,
            members=np.stack(fits, axis=1) * problem.weights[:, None],
            **problem.scaling,
            most_bytes=X.memory // 2,
        )
        return [solutions_of(point, loss, len(problem.targets.classes)) for point in points]


class Nearest(Recipe):
    """The k-nearest-neighbour classifier."""

    name, parameter, grid = "knn", "n_neighbors", (1, 3, 5, 9, 17, 33)

    def values_for(self, rows: int, given: Sequence[int] = ()) -> Sequence[int]:
        """As `Recipe.values_for`."""
        if max(given, default=0) > rows:
            raise UsageError(
                f"`n_neighbors` is {max(given)}, but a fit, or the smallest fold, has only "
                f"{counted(rows, 'training image or view', 'training images or views')}; give at "
                f"most {rows}"
            )
        return given or [value for value in self.grid if value <= rows]

    def fit(self, problem: Problem, value: int) -> Fitted:
        """As `Recipe.fit`."""
        self.values_for(len(problem.rows), [value])
        n_samples, targets = len(problem.rows), problem.targets
        mean, scale = (each.astype(np.float32) for each in problem.moments())
        counts = problem.sample_weights(np.ones(n_samples)).astype(np.float32)
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
            rows = problem.take(fold.fit)
            model: Any = self.fit(rows, min(max(grid), len(rows.X))).model
            nearest = model.nearest(problem.rows[fold.held])
            for own, value in zip(found, grid, strict=True):
                own.append(model.scores_of(nearest[:, :value]))
        yield from found


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
        """As `Recipe.fit`; a fifth of these rows is held out for early stopping."""
        return self.fit_on(problem, problem.folds(_STOPPING_FOLDS, fewer=True)[0])

    def fit_on(
        self,
        problem: Problem,
        fold: Fold,
        progress: Progress | None = None,
        watch: Watch | None = None,
    ) -> Fitted:
        """Train on one part of the rows, with early stopping on the held-out part.

        Parameters
        ----------
        problem : Problem
            n rows.
        fold : Fold
            Rows to train on and rows held out.
        progress : callable, optional
            Called with ``"mlp"``, the number of epochs done and the maximum.
        watch : callable, optional
            Called after each epoch with its metrics.

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
            return train(self, problem.take(fold.fit), problem.take(fold.held), progress, watch)


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Linear("softmax", "softmax", multilabel=False),
        Linear("logreg", "logistic"),
        Linear("svm", "squared_hinge", margins=True),
        Linear("ridge", fit_ridge, margins=True),
        Linear("lda", fit_lda, None, (None,), multilabel=False),
        Linear("centroid", fit_centroids, None, (None,), margins=True, multilabel=False),
        Nearest(),
        MLP(),
    )
}
"""Classifiers by name: multinomial and one-vs-rest logistic regression, linear SVM with squared
hinge, ridge regression, linear discriminants, the nearest class mean, the nearest neighbours, and
a network with a hidden layer."""
