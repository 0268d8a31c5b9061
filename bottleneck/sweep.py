"""Many classifiers on many layers: each cross-validated on cached features, and logged."""

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import joblib
import numpy as np

from bottleneck.cache import Cache
from bottleneck.errors import UsageError
from bottleneck.experiments import Experiment, ExperimentLog, environment
from bottleneck.features import Features, load_features
from bottleneck.fields import made
from bottleneck.heads import MLP, cross_validate
from bottleneck.heads.prepare import problem_of, recipe_of, with_validation
from bottleneck.heads.problem import Fold, Problem, Progress
from bottleneck.heads.recipes import Recipe
from bottleneck.records import FeatureSource
from bottleneck.settings import SweepSettings

__all__ = ["run_sweep"]

_CV = 5


@dataclass(frozen=True)
class _Sweep:
    """What is tried on each layer, by classifier.

    Attributes
    ----------
    settings : SweepSettings
        As given.
    recipes : list of Recipe
        The classifiers, each once; an ``mlp`` for each number of hidden units.
    """

    settings: SweepSettings
    recipes: list[Recipe]

    @classmethod
    def of(cls, settings: SweepSettings) -> Self:
        """Check that what is given beside the classifiers is for one of them."""
        networks = [MLP(hidden=units) for units in settings.hidden]
        recipes = [
            recipe
            for clf in settings.clfs
            for recipe in (networks if networks and clf == MLP.name else [recipe_of(clf)])
        ]
        tried = ", ".join(dict.fromkeys(recipe.name for recipe in recipes))
        for name in ("C", "n_neighbors"):
            if getattr(settings, name) and all(name != each.parameter for each in recipes):
                raise UsageError(f"`{name}` is not for {tried}; leave it out, or add to `clfs`")
        if networks and MLP.name not in settings.clfs:
            raise UsageError(f"`hidden` is for mlp, not for {tried}; add `clfs=mlp`")
        if settings.device not in {"cpu", "auto"} and MLP.name not in settings.clfs:
            raise UsageError(f"`device` applies to mlp only, not to {tried}; leave it out")
        return cls(settings, list(dict.fromkeys(recipes)))

    def grid(self, recipe: Recipe) -> list[Any]:
        """Return the values that are tried for a classifier's parameter, each once."""
        given = getattr(self.settings, recipe.parameter or "", ())
        return list(dict.fromkeys(given or recipe.grid))

    def folds(self, features: Features, recipe: Recipe) -> tuple[Problem, list[list[Fold]]]:
        """Return what a classifier is fitted on, and its folds by repetition."""
        settings = self.settings
        held = features.split("val")
        problem = problem_of(features, recipe, settings)
        if settings.cv is None and len(held):
            if settings.repeats > 1:
                raise UsageError(
                    f"`repeats` is {settings.repeats}, but the val images are held out once; give "
                    f"`cv` for folds of the training images"
                )
            problem, fold = with_validation(problem, held.X, held.labels)
            return problem, [[fold]]
        count = settings.cv or _CV
        return problem, [problem.folds(count, repeat=k) for k in range(settings.repeats)]


@dataclass(frozen=True)
class _Source:
    """A layer in a cache, such as a process of its own can load it."""

    cache: Path
    selection: FeatureSource
    image_set_digest: str
    memory: int | None


@lru_cache(maxsize=1)
def _load(source: _Source) -> Features:
    return load_features(Cache(source.cache), source.selection, memory=source.memory)


@dataclass(frozen=True)
class _Task:
    """One fold of a classifier on one layer, for all values of its parameter that are missing."""

    trial: int
    source: _Source
    recipe: Recipe
    values: Sequence[Any]
    sweep: _Sweep
    repeat: int
    fold: int

    def run(self) -> "_Result":
        """Return the metrics for each value, and the seconds that they took."""
        features = _load(self.source)
        started = time.perf_counter()
        problem, repeats = self.sweep.folds(features, self.recipe)
        own = repeats[self.repeat][self.fold]
        found = cross_validate(problem, self.recipe, [own], self.values)
        place = {"repeat": self.repeat, "fold": self.fold}
        metrics = [{**place, **each} for (each,) in found]
        return self, metrics, time.perf_counter() - started


_Result = tuple[_Task, list[dict[str, float]], float]
"""The metrics for each value, and the seconds that they took."""


@dataclass(frozen=True)
class _Trial:
    """A classifier on one layer: an experiment for each value of its parameter.

    Attributes
    ----------
    settings : list of dict
        Of each experiment.
    found : list of Experiment or None
        What the log has of them.
    tasks : list of _Task
        What is to be done for the others.
    """

    settings: list[dict[str, Any]]
    found: list[Experiment | None]
    tasks: list[_Task]


def run_sweep(
    cache: Cache,
    selections: Sequence[FeatureSource],
    log: ExperimentLog,
    settings: SweepSettings | None = None,
    *,
    jobs: int | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[Experiment]:
    """Cross-validate every classifier on every layer, for every value of its parameter.

    An experiment is appended to the log when its last fold is done, with all that is needed to
    repeat it; what the log has already is not computed again. The test images are not touched.

    Parameters
    ----------
    cache : Cache
        Where the features are.
    selections : sequence of FeatureSource
        The layers, each pooled in one way.
    log : ExperimentLog
        Where experiments are looked for and appended.
    settings : SweepSettings, optional
        What is tried; or its fields, as `options`.
    jobs : int, optional
        Folds that are computed at a time, as joblib has it: its own configuration
        (`joblib.parallel_config`) says how, and how many by default.
    memory : int, optional
        Bytes that all jobs together may take for features, see `load_features`.
    progress : callable, optional
        Called with ``"sweep"``, the folds done and the folds to do.

    Returns
    -------
    list of Experiment
        Those of the log and those new to it: by layer, classifier and value.

    Raises
    ------
    DataError
        A class has fewer images than there are folds, or the features are not as they should be.
    UsageError
        A classifier cannot be told of several classes in an image, or needs more memory.
    CacheError
        The cache lacks rows, or the log cannot be written.
    """
    sweep = _Sweep.of(made(SweepSettings, settings, options))
    share = None if memory is None else memory // joblib.effective_n_jobs(jobs)
    trials = list(_plan(cache, selections, log, sweep, share))
    tasks = [task for trial in trials for task in trial.tasks]
    done: dict[int, list[_Result]] = {}
    if tasks:
        log.make()
    surroundings = environment()
    if progress:
        progress("sweep", 0, len(tasks))
    for count, result in enumerate(_in_parallel(tasks, jobs), start=1):
        number = result[0].trial
        done.setdefault(number, []).append(result)
        if len(done[number]) == len(trials[number].tasks):
            _append(log, trials[number], done.pop(number), surroundings)
        if progress:
            progress("sweep", count, len(tasks))
    _load.cache_clear()
    return [each for trial in trials for each in trial.found if each]


def _plan(
    cache: Cache,
    selections: Sequence[FeatureSource],
    log: ExperimentLog,
    sweep: _Sweep,
    memory: int | None,
) -> Iterator[_Trial]:
    """Yield what is to be done; labels alone say whether it can be."""
    number = 0
    for selection in selections:
        features = _labels(cache, selection, memory)
        # Processes of an earlier sweep may have been started in another folder.
        root, digest = cache.root.absolute(), features.images.digest_of()
        source = _Source(root, selection, digest, memory)
        for recipe in sweep.recipes:
            _, repeats = sweep.folds(features, recipe)
            values = sweep.grid(recipe)
            settings = [
                {
                    **features.provenance.as_dict(),
                    "clf": recipe.name,
                    **({recipe.parameter: value} if recipe.parameter else {}),
                    **recipe.settings,
                    "balanced": sweep.settings.balanced,
                    "standardize": sweep.settings.standardize,
                    "cv": len(repeats[0]),
                    "repeats": len(repeats),
                    "seed": sweep.settings.seed,
                    "images": len(features.split("train")),
                }
                for value in values
            ]
            found = [log.find(each) for each in settings]
            missing = [value for value, each in zip(values, found, strict=True) if each is None]
            tasks = [
                _Task(number, source, recipe, missing, sweep, repeat, fold)
                for repeat, folds in enumerate(repeats if missing else [])
                for fold in range(len(folds))
            ]
            yield _Trial(settings, found, tasks)
            number += 1


def _labels(cache: Cache, selection: FeatureSource, memory: int | None) -> Features:
    """Return features of no columns, or unread ones where they do not fit into memory."""
    features = load_features(cache, selection, memory=0)
    if memory is None or features.bytes_in_memory <= memory:
        return replace(features, X=np.empty((len(features), 0)))
    return load_features(cache, selection, memory=memory)


def _in_parallel(tasks: Sequence[_Task], jobs: int | None) -> Iterator[_Result]:
    """Yield results as they come, or at the end where joblib's backend knows nothing else."""
    try:
        parallel = joblib.Parallel(jobs, return_as="generator_unordered")
    except ValueError:
        parallel = joblib.Parallel(jobs)
    with warnings.catch_warnings():
        # A process that has loaded a large layer may be replaced, which is as it should be.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        yield from parallel(joblib.delayed(_Task.run)(task) for task in tasks)


def _append(
    log: ExperimentLog,
    trial: _Trial,
    results: list[_Result],
    surroundings: dict[str, Any],
) -> None:
    """Append what is new; the seconds are divided among experiments that were computed at once."""
    results.sort(key=lambda result: (result[0].repeat, result[0].fold))
    missing = [place for place, each in enumerate(trial.found) if each is None]
    seconds = sum(each for _, _, each in results) / len(missing)
    for number, place in enumerate(missing):
        folds = [metrics[number] for _, metrics, _ in results]
        trial.found[place] = log.append(trial.settings[place], folds, seconds, surroundings)
