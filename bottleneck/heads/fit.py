"""Fit a head on features and choose its hyper-parameter on held-out ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bottleneck.errors import DataError, UsageError
from bottleneck.heads.calibration import calibration_error, fit_temperature
from bottleneck.heads.head import Head
from bottleneck.heads.mlp import MLP
from bottleneck.heads.prepare import (
    OPTIONS,
    check_value,
    make_problem,
    recipe_of,
    with_validation,
)
from bottleneck.heads.probabilities import link_of, log_probabilities
from bottleneck.heads.problem import Blocks, Fitted, Fold, Problem, Reduce
from bottleneck.heads.recipes import Recipe
from bottleneck.heads.scoring import score_metrics
from bottleneck.labels import Targets
from bottleneck.records import FeatureSource
from bottleneck.solvers import reduce_rows, threads_for

__all__ = ["fit_head"]

_FOLDS = 5


def fit_head(
    X: np.ndarray | Blocks,
    y: np.ndarray,
    clf: str | Recipe = "softmax",
    *,
    C: float | None = None,
    n_neighbors: int | None = None,
    groups: Sequence[str] | np.ndarray | None = None,
    sample_weight: np.ndarray | None = None,
    plain: np.ndarray | None = None,
    validation: tuple[np.ndarray | Blocks, np.ndarray] | None = None,
    balanced: bool = False,
    standardize: bool = True,
    multilabel: bool = False,
    reduce: Reduce = reduce_rows,
    source: FeatureSource | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Head:
    """Fit a classifier on standardised features and choose its hyper-parameter on held-out ones.

    Chosen is the candidate with the lowest held-out log loss. (The accuracy of a few images has
    ties and, on noise, no preference for a strong penalty.) Held out are five stratified folds of
    the training rows, fewer where a class has fewer images, or the validation rows where they are
    given. Either way the head is then fitted on all training rows, and on them alone. Mean and
    variance come from the rows fitted on. All candidates and folds are fitted at once, see
    `bottleneck.solvers.path.fit_path`. A network (`MLP`) is trained once, until the validation rows
    or the first fold say to stop.

    Parameters
    ----------
    X : np.ndarray or Blocks
        Shape (n_samples, d). Features that do not fit into memory are read in blocks, as
        `bottleneck.load_features` gives them: ``softmax``, ``logreg`` and ``svm`` are then trained
        in passes over them, see `bottleneck.solvers.streamed.stream_path`.
    y : np.ndarray
        Labels of shape (n_samples,). Where any text has a semicolon, rows are of several classes
        each, or of none, which the semicolon separates; likewise with bool of shape (n_samples, k).
    clf : str or Recipe
        A key of `RECIPES`, or an `MLP` of other settings.
    C : float, optional
        Inverse strength of the L2 penalty; chosen from `C_GRID` if not given.
    n_neighbors : int, optional
        Of ``knn``; chosen if not given.
    groups : sequence of str, optional
        Rows of one group (identical images) stay in one fold.
    sample_weight : np.ndarray, optional
        Shape (n_samples,): what a row counts when the head is fitted; 1 by default. Held-out rows
        count the same each.
    plain : np.ndarray, optional
        bool of shape (n_samples,): rows that may be held out. All others are augmented views of
        rows of their group, and only fitted on; there are none by default.
    validation : tuple of np.ndarray, optional
        Features (m, d) and labels (m,) to choose on, instead of folds.
    balanced : bool
        Whether each class counts the same, however many rows it has: a row counts n_samples /
        (number of classes * rows of its class).
    standardize : bool
        Whether each feature is divided by its deviation.
    multilabel : bool
        Whether rows may be of several classes although no label here has a semicolon.
    reduce : callable
        `bottleneck.solvers.reduce_rows`, or `KeptReductions`, which keeps what it returns.
    source : FeatureSource, optional
        Kept with the head, see `Head`: the `provenance` of the features.
    seed : int
        Of the folds, and of a network's training.
    device : str
        What ``softmax``, ``logreg``, ``svm`` and networks are trained on where the features are in
        memory, as PyTorch names it: a GPU is faster with many classes or features. Its sums have
        another order, so that the last digits differ.

    Returns
    -------
    Head

    Raises
    ------
    UnknownNameError
        There is no such recipe.
    UsageError
        A hyper-parameter is out of bounds or of another recipe, or features and labels are not of
        the same, positive number.
    DataError
        There are fewer than two classes, or too few images to choose.
    """
    recipe = recipe_of(clf)
    value = _value_of(recipe, C=C, n_neighbors=n_neighbors)
    problem = make_problem(
        X,
        y,
        recipe,
        groups=groups,
        sample_weight=sample_weight,
        plain=plain,
        balanced=balanced,
        standardize=standardize,
        multilabel=multilabel,
        reduce=reduce,
        seed=seed,
        device=device,
    )
    with threads_for(problem.X.size):
        fitted, choice = _fit(problem, recipe, value, validation)
    history = {"history": list(fitted.history)} if fitted.history else {}
    return Head(
        clf=recipe.name,
        classes=problem.targets.classes,
        model=fitted.model,
        hyperparameters=choice.hyperparameters(recipe),
        multilabel=problem.targets.multilabel,
        temperature=choice.temperature,
        scores=choice.scores | history,
        source=source,
    )


@dataclass(frozen=True)
class _Choice:
    """The value chosen for a recipe's parameter, and what is known of it by held-out rows."""

    value: Any
    temperature: float = 1.0
    scores: dict[str, Any] = field(default_factory=dict)

    def hyperparameters(self, recipe: Recipe) -> dict[str, Any]:
        """Return it with the recipe's other settings."""
        return ({recipe.parameter: self.value} if recipe.parameter else {}) | recipe.settings


def _fit(
    problem: Problem,
    recipe: Recipe,
    value: Any,
    validation: tuple[np.ndarray | Blocks, np.ndarray] | None,
) -> tuple[Fitted, _Choice]:
    """Choose on held-out rows, where there are any, and fit."""
    if validation is not None:
        X, y = validation
        trained, fold = with_validation(problem, X, y)
        folds, held_out = [fold], "validation images"
    else:
        chosen = recipe.parameter is not None and value is None
        trained, folds = problem, _folds(problem, recipe, needed=chosen or isinstance(recipe, MLP))
        held_out = f"{len(folds)} folds"
    choice = _Choice(value)
    if isinstance(recipe, MLP):
        if validation is None:
            held_out = f"one of {held_out}"
        fitted = recipe.fit_on(trained, folds[0])
        scores = fitted.model.scores(trained.rows[folds[0].held])
        choice = _choose(recipe, trained.targets, folds[:1], [None], [[scores]])
    else:
        if folds:
            grid = recipe.grid if value is None else [value]
            candidates = recipe.held_out(trained, folds, grid)
            choice = _choose(recipe, trained.targets, folds, grid, candidates)
        fitted = recipe.fit(problem, choice.value)
    known = {"held_out": held_out} | choice.scores if choice.scores else {}
    return fitted, replace(choice, scores=known | {"converged": fitted.converged})


def _value_of(recipe: Recipe, **given: float | None) -> Any:
    """Return the value given for the recipe's hyper-parameter."""
    for name, value in given.items():
        if value is not None and name != recipe.parameter:
            thing = "penalty to give a C for" if name == "C" else f"{name} to give"
            raise UsageError(f"{recipe.name} has no {thing}; leave {OPTIONS[name]} out")
    value = given.get(recipe.parameter or "")
    if value is not None:
        check_value(recipe, value)
    return value


def _folds(problem: Problem, recipe: Recipe, *, needed: bool) -> list[Fold]:
    """Return folds to choose on; none where there can be none, unless they are needed."""
    try:
        return problem.folds(_FOLDS, fewer=True)
    except DataError as error:
        if not needed:
            return []
        option = OPTIONS.get(recipe.parameter or "")
        remedy = f", or give {option}" if option else ", or val images"
        raise DataError(f"{error}{remedy}") from error


def _choose(
    recipe: Recipe,
    targets: Targets,
    folds: Sequence[Fold],
    grid: Sequence[Any],
    candidates: Iterable[list[np.ndarray]],
) -> _Choice:
    """Choose the value whose scores of the held-out rows have the lowest log loss."""
    link = link_of(recipe.name, multilabel=targets.multilabel)
    held = targets.take(np.concatenate([np.flatnonzero(fold.held) for fold in folds]))
    found: list[dict[str, Any]] = []
    best = np.empty(0)
    for value, each in zip(grid, candidates, strict=True):
        scores = np.concatenate(each)
        # Margins say nothing about probabilities until they have a temperature.
        temperature = fit_temperature(link, scores, held) if recipe.margins else 1.0
        named = {recipe.parameter: value} if recipe.parameter else {}
        found.append({**named, **score_metrics(link, scores, held, temperature)})
        if found[-1]["log_loss"] == min(own["log_loss"] for own in found):
            best, chosen = scores, value
    temperature = fit_temperature(link, best, held)
    before = np.exp(log_probabilities(link, best, 1.0))
    return _Choice(
        chosen,
        temperature,
        {
            **score_metrics(link, best, held, temperature),
            "calibration_error_without_temperature": calibration_error(before, held),
            "candidates": found,
        },
    )
