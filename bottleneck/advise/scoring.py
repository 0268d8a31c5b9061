"""Fit heads on subsets of a layer's rows, and score the held-out rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import joblib
import numpy as np

from bottleneck.advise.samples import Samples
from bottleneck.errors import DataError, UsageError
from bottleneck.features import Features
from bottleneck.heads import MLP
from bottleneck.heads.prepare import problem_of, with_validation
from bottleneck.heads.problem import Fold, Problem
from bottleneck.heads.recipes import Recipe
from bottleneck.heads.scoring import fit_temperature, link_of, log_losses, log_probabilities
from bottleneck.settings import AdviseSettings, TrainingSettings
from bottleneck.solvers import in_parallel, threads_for

__all__ = ["LEAST_PER_CLASS", "Bench", "Scored", "make_bench", "nested_subsets", "score_sizes"]

LEAST_PER_CLASS = 3
"""Distinct images per class in the smallest subset, if there are so many."""
_INNER_FOLDS = 3
_RULE_OF_THREE = 3
"""An event not seen in n images has a rate below 3 / n (Hanley and Lippman-Hand 1983, If Nothing
Goes Wrong, Is Everything All Right?)."""


class Scored(NamedTuple):
    """Scores of heads of one kind and size on the judged rows.

    Attributes
    ----------
    log_probabilities : np.ndarray
        Shape (r, s, k): for each repetition, from heads that were not fitted on the row.
    trained : np.ndarray
        Shape (r, f): number of rows that each head was fitted on.
    train_accuracy, train_log_loss : np.ndarray
        Shape (r, f): scores on those rows.
    """

    log_probabilities: np.ndarray
    trained: np.ndarray
    train_accuracy: np.ndarray
    train_log_loss: np.ndarray


_Fit = tuple[np.ndarray, int, float, float]
"""Log probabilities of the held-out rows, number of training rows, and the scores on those."""


@dataclass(frozen=True, eq=False)
class Bench:
    """The rows of a layer, and the folds of each repetition.

    Attributes
    ----------
    problem : Problem
        n rows.
    repeats : list of list of Fold
        The folds of each repetition; together they hold out every judged row once.
    judged : np.ndarray
        Indices of the s rows that are held out.
    blocks : list of list of np.ndarray
        For each repetition, groups of indices into the judged rows; each group is one sample.
    """

    problem: Problem
    repeats: list[list[Fold]]
    judged: np.ndarray
    blocks: list[list[np.ndarray]]

    @property
    def crossed(self) -> bool:
        """Whether every repetition judges the ``val`` rows."""
        return len(self.repeats[0]) == 1

    @property
    def codes(self) -> np.ndarray:
        """The classes of the judged rows, of shape (s,)."""
        return np.asarray(self.problem.targets.codes[self.judged])

    @property
    def images(self) -> int:
        """Number of training images, more than a fold of them is fitted on."""
        return int((self.repeats[0][0].fit | (not self.crossed)).sum())

    @property
    def fits(self) -> int:
        """Number of heads of one kind to fit."""
        return sum(map(len, self.repeats))

    @property
    def held_out(self) -> str:
        """The images that are judged, in words."""
        if self.crossed:
            return f"{len(self.judged)} val images"
        folds = f"{len(self.repeats[0])} folds of the training images"
        return f"{folds}, drawn {len(self.repeats)} times" if len(self.repeats) > 1 else folds

    def first(self, repeats: int) -> "Bench":
        """Return a bench with only the first repetitions."""
        return replace(self, repeats=self.repeats[:repeats], blocks=self.blocks[:repeats])

    def over_blocks(self, measure: Callable[[int, np.ndarray], float]) -> Samples:
        """Apply a function of a repetition and a block's indices to all blocks."""
        values = [
            [measure(repeat, block) for block in own] for repeat, own in enumerate(self.blocks)
        ]
        trained = float(np.mean([fold.fit.sum() for fold in self.repeats[0]]))
        ratio = len(self.judged) / len(self.blocks[0]) / trained
        return Samples(np.array(values), ratio, self.crossed)

    def right(self, scores: np.ndarray) -> np.ndarray:
        """Return which rows are classified correctly, bool of shape (r, s)."""
        return np.asarray(scores.argmax(axis=2) == self.codes)

    def losses(self, log_probabilities: np.ndarray) -> np.ndarray:
        """Return the negative log probability of each row's own class, of shape (r, s)."""
        return np.asarray(-log_probabilities[:, np.arange(len(self.judged)), self.codes])

    def accuracy(self, scored: Scored) -> Samples:
        """Return the fraction of rows that are classified correctly."""
        right = self.right(scored.log_probabilities)
        samples = self.over_blocks(lambda repeat, block: right[repeat, block].mean())
        return replace(samples, least=_RULE_OF_THREE / len(self.judged))

    def log_loss(self, scored: Scored) -> Samples:
        """Return the mean of `losses`, in nats."""
        losses = self.losses(scored.log_probabilities)
        return self.over_blocks(lambda repeat, block: losses[repeat, block].mean())


def make_bench(features: Features, recipe: Recipe, settings: AdviseSettings) -> Bench:
    """Choose the rows to fit on and the rows to hold out; test images are neither.

    The held-out rows are stratified folds of the training images, or the ``val`` images if there
    are any, which are then split into as many blocks to estimate the variance.

    Parameters
    ----------
    features, recipe, settings : Features, Recipe, AdviseSettings

    Returns
    -------
    Bench

    Raises
    ------
    DataError
        The set has no labels, no train images, one class, or too few images of one.
    UsageError
        Images may have several classes.
    """
    if features.images.multilabel:
        raise UsageError(
            f"image set {features.images.name!r} has images with several classes, but advise "
            f"needs one class for each image; compare layers and classifiers with 'bottleneck "
            f"sweep'"
        )
    cv, repeats, seed = settings.cv, settings.repeats, settings.seed
    problem = problem_of(features, recipe, TrainingSettings(seed=seed))
    held = features.split("val")
    if not len(held):
        folds = [problem.folds(cv, repeat=repeat) for repeat in range(repeats)]
        held_out = [[np.flatnonzero(fold.held) for fold in own] for own in folds]
        return Bench(problem, folds, np.arange(len(problem.X)), held_out)
    if len(held) < cv:
        raise DataError(
            f"image set {features.images.name!r} has {len(held)} val images, but `cv` needs at "
            f"least {cv}; add val images, or remove them to use folds of the training images"
        )
    problem, fold = with_validation(problem, held.X, held.labels)
    judged = np.flatnonzero(fold.held)
    # Dealt class by class, like cards, so that blocks are stratified.
    shuffled = np.random.default_rng(seed).permutation(len(judged))
    codes = problem.targets.codes[judged][shuffled]
    order = shuffled[np.argsort(codes, kind="stable")]
    blocks = [order[start::cv] for start in range(cv)]
    return Bench(problem, [[fold]] * repeats, judged, [blocks] * repeats)


def nested_subsets(
    problem: Problem, fit: np.ndarray, sizes: Sequence[int], repeat: int
) -> list[np.ndarray]:
    """Return nested subsets, bool of shape (n,) each.

    Groups are drawn in an order in which every prefix is stratified; the rows of a group stay
    together.

    Parameters
    ----------
    problem : Problem
        n rows.
    fit : np.ndarray
        bool of shape (n,): the rows to draw from.
    sizes : sequence of int
        Maximum rows of each subset; but at least `LEAST_PER_CLASS` groups of each class, if there
        are so many.
    repeat : int
        Number of the repetition; each gives different subsets.

    Returns
    -------
    list of np.ndarray
    """
    generator = np.random.default_rng([problem.seed, repeat])
    places = np.flatnonzero(fit)
    _, first, group_of_row = np.unique(
        problem.groups[places], return_index=True, return_inverse=True
    )
    codes = problem.targets.codes[places][first]
    key = np.empty(len(first))
    for code in np.unique(codes):
        members = generator.permutation(np.flatnonzero(codes == code))
        rank = np.arange(len(members))
        share = (rank + generator.uniform()) / len(members)
        key[members] = np.where(rank < LEAST_PER_CLASS, rank - LEAST_PER_CLASS, share)
    order = np.argsort(key, kind="stable")
    rows_until = np.cumsum(np.bincount(group_of_row)[order])
    subsets = []
    for size in sizes:
        most = int(np.searchsorted(rows_until, size, side="right"))
        chosen = order[: max(most, int((key < 0).sum()))]
        subset = np.zeros(len(fit), dtype=bool)
        subset[places[np.isin(group_of_row, chosen)]] = True
        subsets.append(subset)
    return subsets


def score_sizes(
    bench: Bench,
    recipe: Recipe,
    sizes: Sequence[int],
    *,
    jobs: int | None,
    advance: Callable[[], None],
) -> list[Scored]:
    """Fit heads on nested subsets of each size in every repetition, and score the held-out rows.

    Parameters
    ----------
    bench : Bench
        The rows and folds.
    recipe : Recipe
        The classifier. Its hyperparameter is chosen on folds of each subset.
    sizes : sequence of int
        Rows to fit on; all rows if there are fewer.
    jobs : int, optional
        Number of parallel fits, as for joblib.
    advance : callable
        Called after each fit.

    Returns
    -------
    list of Scored
        One for each size.
    """
    wanted = [
        Fold(subset, fold.held)
        for repeat, folds in enumerate(bench.repeats)
        for fold in folds
        for subset in nested_subsets(bench.problem, fold.fit, sizes, repeat)
    ]
    # With all rows and the same held-out rows, every repetition gives the same result.
    keys = [(fold.fit.tobytes(), fold.held.tobytes()) for fold in wanted]
    tasks = dict(zip(keys, wanted, strict=True))
    fit = joblib.delayed(partial(_fit, bench.problem, recipe))
    found = {}
    for key, each in zip(tasks, in_parallel(map(fit, tasks.values()), jobs), strict=True):
        found[key] = each
        for _ in range(keys.count(key)):
            advance()
    fits = [found[key] for key in keys]
    return [_joined(bench, fits[number :: len(sizes)]) for number in range(len(sizes))]


def _joined(bench: Bench, fits: Sequence[_Fit]) -> Scored:
    """Join the results of the folds of each repetition."""
    folds = [(repeat, fold) for repeat, own in enumerate(bench.repeats) for fold in own]
    k = len(bench.problem.targets.classes)
    said = np.empty((len(bench.repeats), len(bench.problem.X), k), np.float32)
    for (repeat, fold), each in zip(folds, fits, strict=True):
        said[repeat, fold.held] = each[0]
    numbers = np.array([each[1:] for each in fits]).T.reshape(3, len(bench.repeats), -1)
    return Scored(said[:, bench.judged], *numbers)


def _fit(problem: Problem, recipe: Recipe, fold: Fold) -> _Fit:
    """Choose the hyperparameter on folds of the training rows, fit, and score all rows."""
    used = fold.fit | fold.held
    own, fit = problem.take(used), fold.fit[used]
    with threads_for(own.X.size):
        inner: list[Fold] = []
        if not isinstance(recipe, MLP):
            # Standardised once over all training rows, so that inner folds share a reduction.
            own = replace(own, X=own.reduction(fit).rows, standardize=False)
            inner = _inner_folds(own, fit)
        everyone = Fold(fit, np.ones_like(fit))
        candidates = recipe.held_out(own, [*inner, everyone], recipe.grid)
        link = link_of(recipe.name, multilabel=False)
        scores, temperature = _chosen(recipe, link, own, inner, candidates)
    said = log_probabilities(link, scores, temperature)
    right = scores.argmax(axis=1) == own.targets.codes
    losses = log_losses(link, scores[fit], own.targets.take(fit), temperature)
    return said[fold.held[used]], int(fit.sum()), float(right[fit].mean()), float(losses.mean())


def _inner_folds(problem: Problem, fit: np.ndarray) -> list[Fold]:
    """Return folds of the rows `fit`, as masks over all rows."""
    every, places = np.arange(len(fit)), np.flatnonzero(fit)
    return [
        Fold(np.isin(every, places[inner.fit]), np.isin(every, places[inner.held]))
        for inner in problem.take(fit).folds(_INNER_FOLDS, fewer=True)
    ]


def _chosen(
    recipe: Recipe,
    link: str,
    problem: Problem,
    inner: Sequence[Fold],
    candidates: Iterator[list[np.ndarray]],
) -> tuple[np.ndarray, float]:
    """Return the scores of all rows for the value with the lowest inner log loss."""
    if not inner:
        ((scores,),) = candidates
        return scores, 1.0
    held = problem.targets.take(np.concatenate([np.flatnonzero(fold.held) for fold in inner]))
    lowest = np.inf
    for *each, scores in candidates:
        inside = np.concatenate(each)
        temperature = fit_temperature(link, inside, held) if recipe.margins else 1.0
        loss = log_losses(link, inside, held, temperature).mean()
        if loss < lowest:
            lowest, best, chosen = loss, inside, scores
    return chosen, fit_temperature(link, best, held)
