"""Cross-validate many classifiers on many layers of cached features, and log the results."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import joblib
import numpy as np

from bottleneck.arguments import checked, made
from bottleneck.cache import Cache
from bottleneck.errors import DataError, UsageError
from bottleneck.experiments import (
    INNER,
    SINCE,
    SKIPPED,
    Experiment,
    ExperimentLog,
    environment,
)
from bottleneck.features import Features, check_layers, load_features
from bottleneck.heads import MLP
from bottleneck.heads.crossing import fold_metrics
from bottleneck.heads.prepare import recipe_of
from bottleneck.heads.problem import Fold, Progress
from bottleneck.heads.recipes import Recipe
from bottleneck.heads.shots import FoldedRows, Shots, folded_rows
from bottleneck.heads.stepping import nested_scores
from bottleneck.records import AnySource
from bottleneck.settings import SweepSettings
from bottleneck.solvers import in_parallel, threads_for
from bottleneck.solvers.reduction import LEAST_DIVISOR

__all__ = ["run_sweep"]

_INNER_FOLDS = 3
_INNER_LEAST = 3
"""Images of a class that leave two to fit on within each fold, as a network holds one out."""
_SPLITS = ("train", "val")


_Place = tuple[int, int, int]
"""Number of a trial, of a repetition, and of a fold in it."""


class _Trial(NamedTuple):
    """A classifier on one layer: an experiment for each value of its hyperparameter.

    Attributes
    ----------
    settings : dict of Any to dict
        Settings of each experiment, by value.
    missing : list
        Values of the experiments that the log lacks.
    score : callable
        Fits and scores these on a fold; returns its place, the metrics by value, and the seconds
        that it took.
    folds : list of (int, int)
        Folds to compute, as repetition and number; empty if the log has all experiments.
    """

    settings: dict[Any, dict[str, Any]]
    missing: list[Any]
    score: Callable[[_Place], tuple[_Place, list[dict[str, float]], float]]
    folds: list[tuple[int, int]]


@checked
def run_sweep(
    cache: Cache | str | Path,
    selections: Sequence[AnySource],
    log: ExperimentLog | str | Path,
    settings: SweepSettings | None = None,
    *,
    jobs: int | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[Experiment]:
    """Cross-validate every classifier on every layer, for every value of its hyperparameter.

    An experiment is appended to the log when its last fold is done, with everything needed to
    repeat it; experiments in the log are not run again. Test images are not used.

    Parameters
    ----------
    cache : Cache, str or Path
        The cache, or its folder.
    selections : sequence of FeatureSource or JoinedSource
        The layers, each with one pooling; or layers that are joined.
    log : ExperimentLog, str or Path
        The log in which experiments are looked up and to which they are appended.
    settings : SweepSettings, optional
        Classifiers, values and folds to try.
    jobs : int, optional
        Number of parallel folds; by default as joblib is configured (`joblib.parallel_config`).
    memory : int, optional
        Memory limit in bytes for features of all jobs together, see `load_features`.
    progress : callable, optional
        Called with ``"sweep"``, the number of folds done and their total.
    **options
        Fields of `SweepSettings`, such as ``clfs=("svm", "knn"), C=(0.1, 1)``, in place of
        `settings`.

    Returns
    -------
    list of Experiment
        Old and new experiments, by layer, classifier and value.

    Raises
    ------
    DataError
        Classes have too few images, or the features are damaged.
    UsageError
        A classifier does not support several classes per image, or needs more memory.
    WrongTypeError
        The cache is neither a `Cache` nor a folder, or `selections` are not layers.
    CacheError
        The cache lacks rows, or the log cannot be written.
    """
    settings = made(SweepSettings, settings, options)
    cache = Cache(cache)
    check_layers(selections)
    log = log if isinstance(log, ExperimentLog) else ExperimentLog(log)
    share = None if memory is None else memory // joblib.effective_n_jobs(jobs)
    trials = list(_plan(cache, selections, log, settings, share))
    tasks = [
        joblib.delayed(trial.score)((number, *fold))
        for number, trial in enumerate(trials)
        for fold in trial.folds
    ]
    if tasks:
        log.make()
    surroundings = environment()
    if progress:
        progress("sweep", 0, len(tasks))
    results: dict[int, list[Any]] = defaultdict(list)
    scored = in_parallel(tasks, jobs, ordered=False)
    for done, result in enumerate(scored, start=1):
        number = result[0][0]
        trial, own = trials[number], results[number]
        own.append(result)
        if len(own) == len(trial.folds):
            _, folds, times = zip(*sorted(own), strict=True)
            each = sum(times) / len(trial.missing)
            for value, found in zip(trial.missing, zip(*folds, strict=True), strict=True):
                log.append(trial.settings[value], found, each, surroundings)
        if progress:
            progress("sweep", done, len(tasks))
    _load.cache_clear()
    asked = [each for trial in trials for each in trial.settings.values()]
    logged = [(log.find(each), {"typed": each.get("typed")}) for each in asked]
    return [replace(found, settings=found.settings | typed) for found, typed in logged if found]


def _plan(
    cache: Cache,
    selections: Sequence[AnySource],
    log: ExperimentLog,
    settings: SweepSettings,
    memory: int | None,
) -> Iterator[_Trial]:
    """Yield the trials; only labels are read to check whether they are possible."""
    recipes = _recipes(settings)
    for layer in selections:
        features = _labels(cache, layer, memory)
        # Processes of an earlier sweep may have another working directory.
        root, digest = cache.root.absolute(), features.images.digest_of()
        load = partial(_load, root, layer, digest, memory)
        for shots, recipe in product(settings.shots, recipes):
            folded = folded_rows(settings, features, recipe, shots)
            fewest = min(int(fold.fit.sum()) for folds in folded.repeats for fold in folds)
            given = getattr(settings, recipe.parameter or "", ())
            shared = _described(settings, features, recipe, folded)
            described = {
                value: shared | ({recipe.parameter: value} if recipe.parameter else {})
                for value in recipe.values_for(fewest, given)
            }
            missing = [value for value, each in described.items() if log.find(each) is None]
            folds = [(k, fold) for k, own in enumerate(folded.repeats) for fold in range(len(own))]
            score = partial(_score, load, (settings, recipe, shots), missing)
            yield _Trial(described, missing, score, folds if missing else [])


def _described(
    settings: SweepSettings, features: Features, recipe: Recipe, folded: FoldedRows
) -> dict[str, Any]:
    """Return the settings that all values of a hyperparameter have in common, as logged.

    Later settings are logged only where they differ from what earlier versions did.
    """
    repeats = folded.repeats
    held = int(repeats[0][0].held.sum())
    copies = folded.is_of_val and held < len(features.split("val"))
    later = {
        "power": settings.power,
        "normalize": settings.normalize,
        "shots": folded.shots,
        "least_divisor": LEAST_DIVISOR if settings.standardize else 0.0,
    }
    return {
        **features.provenance.logged(),
        "clf": recipe.name,
        **recipe.settings,
        "balanced": settings.balanced,
        "standardize": settings.standardize,
        "cv": len(repeats[0]),
        "repeats": len(repeats),
        "seed": settings.seed,
        "images": len(features.split("train")),
        # Older logs may have scores of copies of training images, too.
        **({"val_images": held} if copies else {}),
        **{name: value for name, value in later.items() if value != SINCE[name]},
        **({"fewer_images": folded.fewer} if folded.fewer else {}),
    }


def _recipes(settings: SweepSettings) -> list[Recipe]:
    """Return the classifiers, each once; one network for each number of hidden units.

    Raises
    ------
    UsageError
        A setting applies to none of the classifiers.
    """
    recipes: list[Recipe] = []
    for clf in settings.clfs:
        networks = [MLP(hidden=units) for units in settings.hidden] if clf == MLP.name else []
        recipes += networks or [recipe_of(clf)]
    tried = ", ".join(dict.fromkeys(recipe.name for recipe in recipes))
    for name in ("C", "n_neighbors"):
        if getattr(settings, name) and name not in {each.parameter for each in recipes}:
            raise UsageError(
                f"`{name}` does not apply to {tried}; leave it out, or add a classifier that takes "
                f"it to `clfs`"
            )
    if settings.hidden and MLP.name not in settings.clfs:
        raise UsageError(
            "`hidden` applies only to mlp, given by its name; leave it out, or give `clfs=mlp`"
        )
    if settings.device not in {"cpu", "auto"} and MLP.name not in settings.clfs:
        raise UsageError(f"`device` applies to mlp only, not to {tried}; leave it out")
    return list(dict.fromkeys(recipes))


def _labels(cache: Cache, layer: AnySource, memory: int | None) -> Features:
    """Return features without columns, or streamed features if they do not fit into memory."""
    features = load_features(cache, layer, memory=0, split=_SPLITS)
    if memory is None or features.bytes_in_memory <= memory:
        return replace(features, X=np.empty((len(features), 0)))
    return load_features(cache, layer, memory=memory, split=_SPLITS)


@lru_cache(maxsize=1)
def _load(cache: Path, layer: AnySource, _digest: str, memory: int | None) -> Features:
    """Load a layer, unless it was loaded last; a changed digest means a changed image set."""
    return load_features(Cache(cache), layer, memory=memory, split=_SPLITS)


def _score(
    load: Callable[[], Features],
    asked: tuple[SweepSettings, Recipe, Shots],
    values: Sequence[Any],
    place: _Place,
) -> tuple[_Place, list[dict[str, float]], float]:
    """Fit and score a classifier on one fold of a layer, for all values of its hyperparameter.

    And on folds of the rows that it was fitted on, where `bottleneck.experiments.unselected`
    chooses for this fold; of these values, only those that a search tries.
    """
    features = load()
    started = time.perf_counter()
    settings, recipe, shots = asked
    folded = folded_rows(settings, features, recipe, shots)
    _, repeat, number = place
    problem, fold = folded.problem, folded.repeats[repeat][number]
    if shots != "all":
        used = fold.fit | fold.held
        problem, fold = problem.take(used), Fold(fold.fit[used], fold.held[used])
    inner = list[Fold]()
    with suppress(DataError):  # a class has too few images
        inner = problem.folds_within(fold, _INNER_FOLDS, least=_INNER_LEAST)
    if not isinstance(recipe, MLP):
        problem = problem.reduced(fold)
    metrics, scored = [], partial(fold_metrics, problem, recipe)
    with threads_for(problem.X.size):
        for own, within in nested_scores(recipe, problem, fold, inner, values):
            others = {SKIPPED: 1.0}
            if within is not None:
                others = _mean([scored(*each) for each in zip(inner, within, strict=True)])
            metrics.append({"repeat": repeat, "fold": number, **scored(fold, own), **others})
    return place, metrics, time.perf_counter() - started


def _mean(folds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean metrics of inner folds, as `bottleneck.experiments.unselected` reads them."""
    names = [name for each in folds[:1] for name in each if name != "images"]
    return {INNER + name: mean(fold[name] for fold in folds) for name in names}
