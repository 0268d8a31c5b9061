"""Fit a head, choose its hyperparameter on held-out rows, and cross-validate classifiers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bottleneck.arguments import checked, made
from bottleneck.errors import DataError, UsageError, counted
from bottleneck.heads.choosing import Choice, deal_groups
from bottleneck.heads.curves import read_curves
from bottleneck.heads.head import Head
from bottleneck.heads.novelty import fit_novelty
from bottleneck.heads.prepare import (
    make_problem,
    problem_of,
    recipe_of,
    validation_rows,
    with_validation,
)
from bottleneck.heads.problem import Fold, Problem, Progress, Rows, Watch
from bottleneck.heads.recipes import MLP, Recipe
from bottleneck.heads.scoring import fit_temperature, link_of, score_metrics
from bottleneck.labels import Targets
from bottleneck.settings import FitSettings, MLPSettings
from bottleneck.solvers import threads_for

if TYPE_CHECKING:
    from bottleneck.features import Features
    from bottleneck.records import AnySource

__all__ = ["cross_validate", "fit_head", "fit_rows"]

_FOLDS = 5


@checked
def fit_head(
    features: "Features",
    clf: str | MLPSettings | FitSettings = "softmax",
    *,
    rows: np.ndarray | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> Head:
    """Fit a classifier on the training images and choose its hyperparameter on held-out images.

    The candidate with the lowest held-out log loss is chosen. (Accuracy on few images has ties and,
    on noise, does not favour a strong penalty.) The held-out images are the ``val`` images if there
    are any, else five stratified folds of the training images, or fewer if a class has fewer
    images. Identical images and the views of an image stay in one fold, and only unaugmented images
    are held out. The head is then fitted on all training images, and on no others. A network
    (``mlp``) is trained once, with early stopping on the held-out images or the first fold.

    Parameters
    ----------
    features : Features
        The result of `bottleneck.load_features`. Features that do not fit into memory are read in
        passes, for ``softmax``, ``logreg`` and ``svm`` only; see
        `bottleneck.solvers.streamed.stream_path`.
    clf : str, MLPSettings or FitSettings
        A classifier, or all settings.
    rows : np.ndarray, optional
        Boolean mask of shape (n_samples,), or indices: the rows to fit on, instead of all training
        rows. With rows of other images than the training images, the head's `source` does not
        record the digests of the splits.
    progress : callable, optional
        Called with ``"mlp"``, the number of epochs done and the maximum.
    watch : callable, optional
        Called after each epoch of ``mlp`` with its entry in the head's history.
    **options
        The other fields of `bottleneck.settings.FitSettings`.

    Returns
    -------
    Head

    Raises
    ------
    UnknownNameError
        The classifier does not exist.
    UsageError
        A hyperparameter is out of bounds or belongs to another classifier, or `rows` has a wrong
        shape.
    WrongTypeError
        `features` is not a `Features`.
    DataError
        There are no training images, fewer than two classes, or too few images to choose.
    """
    settings, recipe, value = _asked(clf, options)
    problem = problem_of(features, recipe, settings, rows)
    held = validation_rows(features, problem)
    validation = (held.X, held.labels, held.groups) if len(held) else None
    source = features.provenance
    if rows is not None and (features.splits[rows] != "train").any():
        source = features.selection  # which does not say on which images
    shown = progress, watch
    head = _fitted(problem, recipe, value, validation=validation, source=source, shown=shown)
    used = features.take(features.splits == "train" if rows is None else rows)
    seen = frozenset([*used.digests.tolist(), *held.digests.tolist()])
    plain = used.take((used.views == 0) & (used.weights > 0))
    with threads_for(plain.X.size):
        novelty = fit_novelty(
            plain.X, plain.groups, widths=features.widths, held=held.X, seed=settings.seed
        )
    return replace(head, seen=seen, novelty=novelty)


@checked
def fit_rows(
    X: Rows,
    y: np.ndarray,
    clf: str | MLPSettings | FitSettings = "softmax",
    *,
    groups: Sequence[str] | np.ndarray | None = None,
    sample_weight: np.ndarray | None = None,
    plain: np.ndarray | None = None,
    validation: tuple[Rows, np.ndarray] | None = None,
    multilabel: bool = False,
    widths: Sequence[int] = (),
    source: "AnySource | None" = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> Head:
    """Fit a classifier on arrays, as `fit_head` does on features.

    Parameters
    ----------
    X : np.ndarray or StreamedRows
        Shape (n_samples, d).
    y : np.ndarray
        Labels of shape (n_samples,). If any label contains a semicolon, labels are lists of classes
        separated by semicolons, and may be empty. Or bool of shape (n_samples, k).
    clf : str, MLPSettings or FitSettings
        As for `fit_head`.
    groups : sequence of str, optional
        Rows of one group (identical images) stay in one fold.
    sample_weight : np.ndarray, optional
        Sample weights of shape (n_samples,); 1 by default. Held-out rows are scored with equal
        weights.
    plain : np.ndarray, optional
        bool of shape (n_samples,): True for unaugmented rows, which may be held out. The others are
        augmented views of rows of their group, and only fitted on. All True by default.
    validation : tuple of np.ndarray, optional
        Features (m, d) and labels (m,) to choose the hyperparameter on, instead of folds.
    multilabel : bool
        Whether rows may have several classes even if no label contains a semicolon.
    widths : sequence of int, optional
        Numbers of columns of joined layers, in order, for `normalize`.
    source : FeatureSource or JoinedSource, optional
        Recorded in the head, see `Head`.
    progress, watch : callable, optional
        As for `fit_head`.
    **options
        The other fields of `bottleneck.settings.FitSettings`.

    Returns
    -------
    Head

    Raises
    ------
    UnknownNameError, UsageError, DataError
        As for `fit_head`; or `X` and `y` are empty or differ in length.
    """
    settings, recipe, value = _asked(clf, options)
    if widths and sum(widths) != X.shape[1]:
        raise UsageError(
            f"`widths` of {sum(widths)} columns in all do not fit features of {X.shape[1]}; give "
            f"the number of columns of each layer"
        )
    problem = make_problem(
        X,
        y,
        recipe,
        settings,
        groups=groups,
        sample_weight=sample_weight,
        plain=plain,
        multilabel=multilabel,
        widths=tuple(widths),
    )
    held = None if validation is None else (*validation, np.arange(len(validation[1])))
    shown = progress, watch
    return _fitted(problem, recipe, value, validation=held, source=source, shown=shown)


def _asked(
    clf: str | MLPSettings | FitSettings, options: Mapping[str, Any]
) -> tuple[FitSettings, Recipe, Any]:
    """Return the settings, the recipe, and the value given for its hyperparameter, if any."""
    if isinstance(clf, FitSettings):
        settings = made(FitSettings, clf, options)
    elif isinstance(clf, MLPSettings):
        settings = FitSettings(clf="mlp", **{**options, **MLP.of(clf).settings})
    else:
        settings = FitSettings(clf=clf, **options)  # type: ignore[arg-type]
    recipe = recipe_of(settings if settings.clf == MLP.name else settings.clf)
    for name in ("C", "n_neighbors"):
        if getattr(settings, name) is not None and name != recipe.parameter:
            raise UsageError(f"{recipe.name} has no `{name}`; leave it out")
    if settings.device not in {"cpu", "auto"} and recipe.name != MLP.name:
        raise UsageError(
            f"`device` applies to mlp only; {recipe.name} is fitted on the CPU: leave it out"
        )
    return settings, recipe, getattr(settings, recipe.parameter) if recipe.parameter else None


def _fitted(
    problem: Problem,
    recipe: Recipe,
    value: Any,
    *,
    validation: tuple[Rows, np.ndarray, np.ndarray] | None,
    source: "AnySource | None",
    shown: tuple[Progress | None, Watch | None],
) -> Head:
    """Choose the hyperparameter on held-out rows, if there are any, and fit."""
    with threads_for(problem.X.size):
        if validation is not None:
            trained, fold = with_validation(problem, *validation)
            folds, held_out = [fold], "validation images"
        else:
            trained, folds = problem, _folds(problem, recipe, value)
            held_out = counted(len(folds), "fold")
        temperature, scores = 1.0, dict[str, Any]()
        if isinstance(recipe, MLP):
            held_out = held_out if validation else f"one of {held_out}"
            fitted = recipe.fit_on(trained, folds[0], *shown)
            if choice := fitted.choice:
                temperature, scores = choice.calibrated()
                scores["candidates"] = [choice.metrics(choice.best)]
        else:
            if folds:
                fewest = min(int(fold.fit.sum()) for fold in folds)
                grid = recipe.values_for(fewest, [] if value is None else [value])
                value, temperature, scores = _choose(recipe, trained, folds, grid)
            fitted = recipe.fit(problem, value)
    known = {"held_out": held_out} | scores if scores else {}
    history: dict[str, Any] = {}
    if fitted.history:
        reading = read_curves(fitted.history, int(folds[0].held.sum()))
        history = {"reading": reading, "history": list(fitted.history)}
    chosen = {recipe.parameter: value} if recipe.parameter else {}
    others = {name: getattr(problem, name) for name in ("balanced", "standardize", "seed")}
    changed = {name: each for name, each in others.items() if each != getattr(FitSettings, name)}
    return Head(
        clf=recipe.name,
        classes=problem.targets.classes,
        model=fitted.model,
        hyperparameters=chosen | recipe.settings | changed,
        multilabel=problem.targets.multilabel,
        power=problem.adjust.power,
        normalize=problem.adjust.normalize,
        widths=problem.adjust.widths,
        temperature=temperature,
        scores=known | {"converged": fitted.converged} | history,
        source=source,
    )


def _folds(problem: Problem, recipe: Recipe, value: Any) -> list[Fold]:
    """Return folds to choose on; none if no folds are possible and nothing has to be chosen."""
    try:
        return problem.folds(_FOLDS, fewer=True)
    except DataError as error:
        if not isinstance(recipe, MLP) and (recipe.parameter is None or value is not None):
            return []
        remedy = f", or give `{recipe.parameter}`" if recipe.parameter else ", or val images"
        raise DataError(f"{error}{remedy}") from error


def _choose(
    recipe: Recipe, problem: Problem, folds: Sequence[Fold], grid: Sequence[Any]
) -> tuple[Any, float, dict[str, Any]]:
    """Choose the value with the lowest log loss on the held-out rows.

    Returns
    -------
    value : Any
        Value of the recipe's hyperparameter.
    temperature : float
        Temperature that calibrates its scores.
    scores : dict
        See `Choice.calibrated`; and the metrics of all candidates.
    """
    rows = [np.flatnonzero(fold.held) for fold in folds]
    targets = problem.targets.take(np.concatenate(rows))
    link = link_of(recipe.name, multilabel=targets.multilabel)
    parts = np.arange(len(folds)).repeat(list(map(len, rows)))
    if len(folds) == 1:
        parts = deal_groups(problem.groups[rows[0]], targets=targets)
    choice = Choice(link, targets, parts, margins=recipe.margins)
    chosen, found = None, list[dict[str, Any]]()
    for value, each in zip(grid, recipe.held_out(problem, folds, grid), strict=True):
        own = np.concatenate(each)
        if choice.offer(own):
            chosen = value
        named = {recipe.parameter: value} if recipe.parameter else {}
        found.append({**named, **choice.metrics(own)})
    temperature, scores = choice.calibrated()
    return chosen, temperature, {**scores, "candidates": found}


@checked
def cross_validate(
    problem: Problem, recipe: Recipe, folds: Sequence[Fold], grid: Sequence[Any]
) -> list[list[dict[str, float]]]:
    """Fit on each fold for each value of the hyperparameter, and score the held-out rows.

    Probabilities are calibrated like those of a head, but never on the rows that they are judged
    on: each half of a fold's held-out rows uses the temperature fitted on the other half.

    Parameters
    ----------
    problem : Problem
        n rows.
    recipe : Recipe
        The classifier.
    folds : sequence of Fold
        f folds.
    grid : sequence
        Values of its hyperparameter; only None if it has none.

    Returns
    -------
    list of list of dict
        For each value and each fold, ``images``, the number of held-out images, and the metrics of
        `bottleneck.heads.scoring.score_metrics`.
    """
    link = link_of(recipe.name, multilabel=problem.targets.multilabel)

    def metrics(fold: Fold, scores: np.ndarray) -> dict[str, float]:
        held = problem.targets.take(fold.held)
        temperatures = _temperatures(link, scores, held, problem.groups[fold.held])
        return {"images": len(held), **score_metrics(link, scores, held, temperatures)}

    with threads_for(problem.X.size):
        return [
            [metrics(fold, own) for fold, own in zip(folds, scores, strict=True)]
            for scores in recipe.held_out(problem, folds, grid)
        ]


def _temperatures(link: str, scores: np.ndarray, held: Targets, groups: np.ndarray) -> np.ndarray:
    """Return the temperature of each row, shape (n, 1), fitted on rows of other groups."""
    half = deal_groups(groups, 2) == 0
    found = np.ones((len(scores), 1))
    for own in (half, ~half):
        if not own.all():
            found[own] = fit_temperature(link, scores[~own], held.take(~own))
    return found
