"""What classifiers there are, and how each is fitted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
from annotated_doc import Doc

from bottleneck.fields import Option, settings
from bottleneck.heads.models import Affine, Neighbours
from bottleneck.heads.problem import Fitted, Fold, Problem, Progress
from bottleneck.heads.streaming import Pair, pairs_of, stream, stream_scores
from bottleneck.settings import MLPSettings
from bottleneck.solvers import Reduction, threads_for
from bottleneck.solvers.closed_form import fit_centroids, fit_lda, fit_ridge

__all__ = ["C_GRID", "MLP", "RECIPES", "Linear", "Nearest", "Recipe"]

C_GRID = tuple(float(f"1e{exponent}") for exponent in range(-6, 2))
_NEIGHBOURS_GRID = (1, 3, 5, 9, 17, 33)
_STOPPING_FOLDS = 5
"""Of which the first says when the training of a network stops."""

Solved = Iterator[tuple[list[Pair], bool]]
"""For each `C` the folds' solutions on reduced rows, and whether all have converged."""


class Reduced(NamedTuple):
    """A problem's reduced rows, and what the methods need to fit on them.

    Attributes
    ----------
    reduction : Reduction
        n rows.
    codes : np.ndarray
        Those of their targets.
    counts : np.ndarray
        What each row counts in each fold, see `Problem.counts`.
    """

    reduction: Reduction
    codes: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(
        cls, problem: Problem, fit: np.ndarray, standardised_by: np.ndarray | None = None
    ) -> Self:
        """Reduce a problem whose folds are fitted on the rows `fit`, bool of shape (n, f)."""
        reduction = problem.reduction(standardised_by)
        return cls(reduction, problem.targets.codes, problem.counts(fit))


Method = Callable[[Reduced, Sequence[Any]], Solved]
"""Fits on all folds for all values of `C`, of which a recipe without has one, None."""


class Recipe(Protocol):
    """How a classifier is fitted.

    Attributes
    ----------
    name : str
        As `RECIPES` has it.
    parameter : str or None
        The hyper-parameter that is chosen on held-out rows: ``C`` or ``n_neighbors``.
    grid : sequence
        Its candidates; None alone without one.
    settings : dict
        Other hyper-parameters.
    margins : bool
        Whether its scores are margins or distances, which no probabilities follow as they are.
    multilabel : bool
        Whether it can be told of several classes in a row.
    streams : bool
        Whether its features may be `Blocks`.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see Attributes
    @property
    def parameter(self) -> str | None: ...  # noqa: D102
    @property
    def grid(self) -> Sequence[Any]: ...  # noqa: D102
    @property
    def settings(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def margins(self) -> bool: ...  # noqa: D102
    @property
    def multilabel(self) -> bool: ...  # noqa: D102
    @property
    def streams(self) -> bool: ...  # noqa: D102

    def fit(self, problem: Problem, value: Any) -> Fitted:
        """Fit on all rows, for one value of the parameter."""

    def held_out(
        self, problem: Problem, folds: Sequence[Fold], grid: Sequence[Any]
    ) -> Iterator[list[np.ndarray]]:
        """Yield for each value the scores (m, k) of each fold's held-out rows."""


@dataclass(frozen=True)
class Linear:
    """A classifier whose scores are linear in the features: fitted on reduced rows."""

    name: str
    method: Method
    parameter: str | None = "C"
    grid: Sequence[float | None] = C_GRID
    margins: bool = False
    multilabel: bool = True
    settings: ClassVar[dict[str, Any]] = {}
    streams: ClassVar[bool] = False

    def fit(self, problem: Problem, value: float | None) -> Fitted:
        """As `Recipe.fit`."""
        reduced = Reduced.of(problem, np.ones((len(problem.X), 1), dtype=bool))
        (([pair], converged),) = self.method(reduced, [value])
        weight, bias = reduced.reduction.lift(*pair, problem.rows)
        return Fitted(Affine(weight.astype(np.float32), bias.astype(np.float32)), converged)

    def held_out(
        self, problem: Problem, folds: Sequence[Fold], grid: Sequence[float | None]
    ) -> Iterator[list[np.ndarray]]:
        """As `Recipe.held_out`."""
        found: list[list[np.ndarray]] = [[] for _ in grid]
        # Without deviations, which each fold has of its own, one reduction serves all of them.
        for some in [[fold] for fold in folds] if problem.standardize else [list(folds)]:
            fit = np.stack([fold.fit for fold in some], axis=1)
            reduced = Reduced.of(problem, fit, some[0].fit if problem.standardize else None)
            for own, (pairs, _) in zip(found, self.method(reduced, grid), strict=True):
                for fold, (weight, bias) in zip(some, pairs, strict=True):
                    own.append(reduced.reduction.rows[fold.held] @ weight.T + bias)
        yield from found


@dataclass(frozen=True)
class _Path:
    """The method that finds solutions for all `C` and folds at once, step by step."""

    loss: str

    def __call__(self, reduced: Reduced, grid: Sequence[float]) -> Solved:
        from bottleneck.solvers.path import fit_path

        reduction, codes, counts = reduced
        for point in fit_path(reduction.rows, codes, counts, grid, self.loss):
            yield pairs_of(point, codes, self.loss), bool(point.converged.all())


@dataclass(frozen=True)
class Iterated(Linear):
    """A linear classifier that is found step by step, also in passes over features in blocks."""

    method: _Path
    streams: ClassVar[bool] = True

    def fit(self, problem: Problem, value: float | None) -> Fitted:
        """As `Recipe.fit`."""
        X = problem.X
        if isinstance(X, np.ndarray) or value is None:
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


@dataclass(frozen=True)
class Nearest:
    """Votes of the nearest rows, which reduced rows find as well."""

    name: str = "knn"
    parameter: ClassVar[str] = "n_neighbors"
    grid: ClassVar[Sequence[int]] = _NEIGHBOURS_GRID
    settings: ClassVar[dict[str, Any]] = {}
    margins: ClassVar[bool] = False
    multilabel: ClassVar[bool] = True
    streams: ClassVar[bool] = False

    def fit(self, problem: Problem, value: int) -> Fitted:
        """As `Recipe.fit`."""
        everyone = np.ones(len(problem.X), dtype=bool)
        return Fitted(_neighbours(problem, problem.rows, problem.moments(), everyone, value))

    def held_out(
        self, problem: Problem, folds: Sequence[Fold], grid: Sequence[int]
    ) -> Iterator[list[np.ndarray]]:
        """As `Recipe.held_out`."""
        found: list[list[np.ndarray]] = [[] for _ in grid]
        for fold in folds:
            rows = problem.reduction(fold.fit).rows
            alike = np.zeros(rows.shape[1]), np.ones(rows.shape[1])
            model = _neighbours(problem, rows, alike, fold.fit, max(grid))
            nearest = model.nearest(rows[fold.held])
            for own, value in zip(found, grid, strict=True):
                own.append(model.scores_of(nearest[:, :value]))
        yield from found


def _neighbours(
    problem: Problem,
    rows: np.ndarray,
    moments: tuple[np.ndarray, np.ndarray],
    fit: np.ndarray,
    n_neighbors: int,
) -> Neighbours:
    mean, scale = (each.astype(np.float32) for each in moments)
    counts = problem.counts(fit[:, None])[fit, 0].astype(np.float32)
    counts /= counts.mean()  # a vote is one vote, whatever the weights' scale
    each = counts if counts.ndim > 1 else counts[:, None]
    return Neighbours(
        rows=((rows[fit] - mean) / scale).astype(np.float32, copy=False),
        votes=problem.targets.indicators[fit] * each,
        counts=np.repeat(each, len(problem.targets.classes) // each.shape[1], axis=1),
        mean=mean,
        scale=scale,
        n_neighbors=n_neighbors,
        multilabel=problem.targets.multilabel,
    )


def _ridge(reduced: Reduced, grid: Sequence[float]) -> Solved:
    rows, counts = reduced.reduction.rows, reduced.counts
    folds = [
        fit_ridge(rows, reduced.codes, counts[:, fold], grid) for fold in range(counts.shape[1])
    ]
    for pairs in zip(*folds, strict=True):
        yield list(pairs), True


def _lda(reduced: Reduced, _grid: Sequence[None]) -> Solved:
    reduction, codes, counts = reduced
    n_features = len(reduction.mean)
    yield [fit_lda(reduction.rows, codes, fold, n_features) for fold in counts.T], True


def _centroid(reduced: Reduced, _grid: Sequence[None]) -> Solved:
    rows, codes = reduced.reduction.rows, reduced.codes
    yield [fit_centroids(rows, codes, fold) for fold in reduced.counts.T], True


@settings("Network of mlp")
class MLP(MLPSettings):
    """The recipe of a network, see `bottleneck.settings.MLPSettings`."""

    progress: Annotated[
        Progress | None,
        Doc('Called with "mlp", the epochs done and the most there may be.'),
        Option(hidden=True),
    ] = None

    name: ClassVar[str] = "mlp"
    parameter: ClassVar[None] = None
    grid: ClassVar[Sequence[None]] = (None,)
    margins: ClassVar[bool] = False
    multilabel: ClassVar[bool] = True
    streams: ClassVar[bool] = False

    @classmethod
    def of(cls, given: MLPSettings, progress: Progress | None = None) -> Self:
        """Return the recipe with settings that may be part of others."""
        named = {each.name: getattr(given, each.name) for each in fields(MLPSettings)}
        return cls(**named, progress=progress)

    @property
    def settings(self) -> dict[str, Any]:
        """As `Recipe.settings`."""
        return {name: value for name, value in asdict(self).items() if name != "progress"}

    def fit(self, problem: Problem, value: None) -> Fitted:  # noqa: ARG002 - there is no parameter
        """As `Recipe.fit`; a fifth of the rows says when to stop."""
        return self.fit_on(problem, problem.folds(_STOPPING_FOLDS, fewer=True)[0])

    def held_out(
        self,
        problem: Problem,
        folds: Sequence[Fold],
        grid: Sequence[None],  # noqa: ARG002 - there is no parameter
    ) -> Iterator[list[np.ndarray]]:
        """As `Recipe.held_out`; what is held out has no say in it."""
        fitted = [self.fit(problem.take(fold.fit), None) for fold in folds]
        yield [
            each.model.scores(problem.rows[fold.held])
            for each, fold in zip(fitted, folds, strict=True)
        ]

    def fit_on(self, problem: Problem, fold: Fold) -> Fitted:
        """Train on some rows until the others, which are held out, say to stop.

        Raises
        ------
        DataError
            The training diverged.
        """
        from bottleneck.heads.training import train

        with threads_for(problem.X.size):  # again, as PyTorch is loaded only now
            return train(self, problem.take(fold.fit), problem.take(fold.held), self.progress)


_ALL: tuple[Recipe, ...] = (
    Iterated("softmax", _Path("softmax"), multilabel=False),
    Iterated("logreg", _Path("logistic")),
    Iterated("svm", _Path("squared_hinge"), margins=True),
    Linear("ridge", _ridge, margins=True),
    Linear("lda", _lda, None, (None,), multilabel=False),
    Linear("centroid", _centroid, None, (None,), margins=True, multilabel=False),
    Nearest(),
    MLP(),
)
RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _ALL}
"""Classifiers by name: multinomial and one-vs-rest logistic regression, linear SVM with squared
hinge, ridge regression, linear discriminants, the nearest class mean, the nearest neighbours, and
a network with a hidden layer."""
