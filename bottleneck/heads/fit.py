"""Fit a head, and choose its hyperparameter on held-out rows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bottleneck.arguments import checked
from bottleneck.errors import UsageError, counted
from bottleneck.heads.crossing import asked, choose, folds_to_choose
from bottleneck.heads.curves import read_curves
from bottleneck.heads.head import Head
from bottleneck.heads.novelty import fit_novelty
from bottleneck.heads.prepare import (
    make_problem,
    problem_of,
    validation_rows,
    with_validation,
)
from bottleneck.heads.problem import Problem, Progress, Rows, Watch
from bottleneck.heads.recipes import MLP, Recipe
from bottleneck.settings import FitSettings, MLPSettings
from bottleneck.solvers import threads_for

if TYPE_CHECKING:
    from bottleneck.features import Features
    from bottleneck.records import AnySource

__all__ = ["fit_head", "fit_rows"]


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
    settings, recipe, value = asked(clf, options)
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
        Numbers of columns of joined layers, in order, which are scaled apart.
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
    settings, recipe, value = asked(clf, options)
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
            trained, folds = problem, folds_to_choose(problem, recipe, value)
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
                value, crossed, candidates = choose(recipe, trained, folds, grid)
                temperature, scores = crossed.calibrated()
                scores["candidates"] = candidates
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
