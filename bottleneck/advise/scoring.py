"""Fit heads on subsets of a layer's rows, and score the held-out rows."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import NamedTuple

import joblib
import numpy as np

from bottleneck.advise.curve import Samples
from bottleneck.advise.fitting import fit_fold
from bottleneck.errors import DataError, UsageError, counted
from bottleneck.experiments import RULE_OF_THREE
from bottleneck.features import Features
from bottleneck.heads.choosing import deal_groups
from bottleneck.heads.prepare import problem_of, validation_rows, with_validation
from bottleneck.heads.problem import Fold, Problem
from bottleneck.heads.recipes import Recipe
from bottleneck.settings import AdviseSettings, TrainingSettings
from bottleneck.solvers import in_parallel

__all__ = [
    "LEAST_PER_CLASS",
    "Bench",
    "FoldScores",
    "Scored",
    "make_bench",
    "nested_subsets",
    "plan_fits",
    "score_sizes",
]

LEAST_PER_CLASS = 3
"""Distinct images per class in the smallest subset, if there are so many."""
_LEAST = 3
"""Images of a class that leave two to fit on in the smallest folds, for the folds within them."""


FoldScores = tuple[np.ndarray, int, float, float, float]
"""The result of `bottleneck.advise.fitting.fit_fold`."""


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
    inner_accuracy : np.ndarray
        Shape (r, f): on folds within those rows; nan for a network.
    """

    log_probabilities: np.ndarray
    trained: np.ndarray
    train_accuracy: np.ndarray
    train_log_loss: np.ndarray
    inner_accuracy: np.ndarray


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
        For each repetition, indices into the judged rows; each block is one sample, and parts no
        group, so that intervals allow for errors of a group that depend on each other.
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
            return counted(len(self.judged), "val image")
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
        groups = np.unique(self.problem.groups[self.judged])  # of one image each, if none are named
        return replace(samples, least=RULE_OF_THREE / len(groups))

    def log_loss(self, scored: Scored) -> Samples:
        """Return the mean of `losses`, in nats."""
        losses = self.losses(scored.log_probabilities)
        return self.over_blocks(lambda repeat, block: losses[repeat, block].mean())


def make_bench(features: Features, recipe: Recipe, settings: AdviseSettings) -> Bench:
    """Choose the rows to fit on and the rows to hold out; test images are neither.

    The held-out rows are stratified folds of the training images, or the ``val`` images if there
    are any, which are then split into as many blocks to estimate the variance. Neither parts a
    group.

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
        Images may have several classes, or the features do not fit into memory.
    """
    if features.images.multilabel:
        raise UsageError(
            f"image set {features.images.name!r} has images with several classes, but advise "
            f"needs one class for each image; compare layers and classifiers with 'bottleneck "
            f"sweep'"
        )
    if not isinstance(features.X, np.ndarray):
        raise UsageError(
            f"{features.selection} needs {features.bytes_in_memory / 1e6:.0f} MB with copies, but "
            f"the limit is {features.X.memory / 1e6:.0f} MB; give a `pool` that makes fewer "
            f"features, or more `memory`"
        )
    cv, repeats, seed = settings.cv, settings.repeats, settings.seed
    problem = problem_of(features, recipe, TrainingSettings(seed=seed))
    held = validation_rows(features, problem)
    if not len(held):
        folds = [
            problem.folds(cv, fewer=True, least=_LEAST, repeat=repeat) for repeat in range(repeats)
        ]
        held_out = [[np.flatnonzero(fold.held) for fold in own] for own in folds]
        return Bench(problem, folds, np.arange(len(problem.X)), held_out)
    problem, fold = with_validation(problem, held.X, held.labels, held.groups)
    judged = np.flatnonzero(fold.held)
    part = deal_groups(problem.groups[judged], cv, problem.targets.take(judged), seed=seed)
    if (found := part.max() + 1) < cv:
        one = ("group of val images", "groups of val images") if problem.named else ("val image",)
        raise DataError(
            f"image set {features.images.name!r} has {counted(found, *one)}, but `cv` needs at "
            f"least {cv}; add val images, or remove them to use folds of the training images"
        )
    blocks = [np.flatnonzero(part == number) for number in range(cv)]
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
    codes = problem.targets.codes[places]
    key = np.full(len(first), np.inf)
    for code in np.unique(codes):
        members = generator.permutation(np.unique(group_of_row[codes == code]))
        rank = np.arange(len(members))
        share = (rank + generator.uniform()) / len(members)
        own = np.where(rank < LEAST_PER_CLASS, rank - LEAST_PER_CLASS, share)
        key[members] = np.minimum(key[members], own)  # a group may have several classes
    order = np.argsort(key, kind="stable")
    rows_until = np.cumsum(np.bincount(group_of_row)[order])
    counts = np.maximum(np.searchsorted(rows_until, sizes, side="right"), (key < 0).sum())
    place = np.full(len(fit), len(order))
    place[places] = np.argsort(order)[group_of_row]
    return [place < count for count in counts]


def plan_fits(
    bench: Bench, sizes: Sequence[int]
) -> tuple[dict[bytes, Fold], dict[bytes, list[tuple[int, int, int]]]]:
    """Return the fits on nested subsets of each size in every repetition.

    Parameters
    ----------
    bench, sizes : Bench, sequence of int
        As for `score_sizes`.

    Returns
    -------
    folds : dict of bytes to Fold
        The fits by keys of their own. With all rows and the same held-out rows, every repetition
        gives the same result.
    places : dict of bytes to list of tuple
        For each, the numbers of the sizes, repetitions and folds that it is the fit of.
    """
    folds: dict[bytes, Fold] = {}
    places = defaultdict(list)
    for repeat, number in np.ndindex(len(bench.repeats), len(bench.repeats[0])):
        fold = bench.repeats[repeat][number]
        subsets = nested_subsets(bench.problem, fold.fit, sizes, repeat)
        for size, subset in enumerate(subsets):
            key = subset.tobytes() + fold.held.tobytes()
            folds[key] = Fold(subset, fold.held)
            places[key].append((size, repeat, number))
    return folds, places


def score_sizes(
    bench: Bench,
    recipe: Recipe,
    sizes: Sequence[int],
    *,
    jobs: int | None,
    advance: Callable[[], None],
    known: Mapping[bytes, FoldScores] | None = None,
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
    known : mapping of bytes to tuple, optional
        Fits of these rows and this classifier that have been made, by their keys in `plan_fits`.

    Returns
    -------
    list of Scored
        One for each size.
    """
    problem, shape = bench.problem, (len(sizes), len(bench.repeats))
    folds, places = plan_fits(bench, sizes)
    log_shares = np.empty((*shape, len(bench.judged), len(problem.targets.classes)), np.float32)
    scores = np.empty((4, *shape, len(bench.repeats[0])))
    fit = joblib.delayed(partial(fit_fold, problem, recipe))
    known = known or {}
    missing = {key: fold for key, fold in folds.items() if key not in known}
    fitted = zip(missing, in_parallel(map(fit, missing.values()), jobs), strict=True)
    for key, (scores_held, *numbers) in chain(known.items(), fitted):
        fold = folds[key]
        for size, repeat, number in places[key]:
            log_shares[size, repeat, fold.held[bench.judged]] = scores_held
            scores[:, size, repeat, number] = numbers
            advance()
    return list(map(Scored, log_shares, *scores))
