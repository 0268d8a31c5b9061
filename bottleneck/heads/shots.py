"""The folds of a sweep, to fit on all images or on a few of each class."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from bottleneck.errors import UsageError, counted
from bottleneck.heads.prepare import problem_of, validation_rows, with_validation
from bottleneck.heads.problem import Fold, Problem
from bottleneck.heads.recipes import MLP, Recipe
from bottleneck.settings import SweepSettings

if TYPE_CHECKING:
    from bottleneck.features import Features

__all__ = ["FoldedRows", "Shots", "draw_images", "folded_rows"]

Shots = int | Literal["all"]
"""Number of images of each class to fit on."""
_CV = 5
"""Number of folds by default, and of draws that are scored on the same val images."""
_FIT_AND_STOP = 2
"""Groups of each class that a network needs: one to fit on, and one for early stopping."""


@dataclass(frozen=True, eq=False)
class FoldedRows:
    """Rows of features, and the folds of each repetition.

    Attributes
    ----------
    problem : Problem
        n rows.
    repeats : list of list of Fold
        The folds of each repetition.
    shots : int or "all"
        Number of images of each class to fit on.
    fewer : dict of str to int
        The classes with fewer images, and how many they have in the fold with the fewest.
    is_of_val : bool
        Whether the ``val`` images are held out.
    """

    problem: Problem
    repeats: list[list[Fold]]
    shots: Shots
    fewer: dict[str, int]
    is_of_val: bool


def folded_rows(
    settings: SweepSettings, features: "Features", recipe: Recipe, shots: Shots
) -> FoldedRows:
    """Return the rows to fit on, and their folds.

    With few shots, each fold fits on a draw of its own from the rows that it would fit on; so it
    holds out no image of its draw, and no image in a group with one.

    Parameters
    ----------
    settings : SweepSettings
        Folds and seed.
    features : Features
        Training and validation images.
    recipe : Recipe
        The classifier.
    shots : int or "all"
        Number of images of each class to fit on.

    Returns
    -------
    FoldedRows

    Raises
    ------
    DataError
        Classes have too few images.
    UsageError
        Images may have several classes, or are too few for a network; or `repeats` is given where
        all heads would be fitted and scored on the same images.
    """
    problem = problem_of(features, recipe, settings)
    held = validation_rows(features, problem)
    is_of_val = settings.cv is None and len(held) > 0
    if is_of_val:
        if settings.repeats > 1 and settings.shots == ("all",):
            raise UsageError(
                f"`repeats` is {settings.repeats}, but the val images are held out once; give "
                f"`cv` for folds of the training images"
            )
        problem, fold = with_validation(problem, held.X, held.labels, held.groups)
        repeats = [[fold]] if shots == "all" else [[fold] * _CV] * settings.repeats
    else:
        count, fewer = settings.cv or _CV, settings.cv is None
        repeats = [problem.folds(count, fewer=fewer, repeat=k) for k in range(settings.repeats)]
    folded = FoldedRows(problem, repeats, shots, {}, is_of_val)
    if shots == "all":
        return folded
    if problem.targets.multilabel:
        raise UsageError(
            "`shots` counts the images of each class, but the labels name several; leave it out"
        )
    train = features.training()
    drawn = _with_draws(folded, train.digests[train.weights > 0], shots, settings.seed)
    few = min(min(problem.sizes(fold.fit).values()) for own in drawn.repeats for fold in own)
    if recipe.name == MLP.name and few < _FIT_AND_STOP:
        raise UsageError(
            f"mlp cannot be fitted on {counted(shots, 'image')} of each class, as it holds some of "
            f"them out for early stopping; leave `shots={shots}` or `clfs=mlp` out"
        )
    return drawn


def _with_draws(folded: FoldedRows, digests: np.ndarray, shots: int, seed: int) -> FoldedRows:
    """Return the folds with a few of the images of the first rows, whose digests are given."""
    problem, number = folded.problem, len(digests)
    images = np.unique(digests, return_inverse=True)[1]
    codes, groups = problem.targets.codes[:number], problem.groups[:number]
    least = np.full(len(problem.targets.classes), shots)
    repeats = list[list[Fold]]()
    for place, folds in enumerate(folded.repeats):
        repeats.append([])
        for fold_number, fold in enumerate(folds):
            rows = np.flatnonzero(fold.fit)
            seeds = [seed, place, fold_number]
            drawn = rows[draw_images(digests[rows], codes[rows], groups[rows], shots, seeds)]
            fit = np.isin(np.arange(len(fold.fit)), drawn)
            repeats[-1].append(Fold(fit, fold.held))
            pairs = np.unique(np.stack([codes[drawn], images[drawn]]), axis=1)
            least = np.minimum(least, np.bincount(pairs[0], minlength=len(least)))
    named = zip(problem.targets.classes, least.tolist(), strict=True)
    fewer = {label: count for label, count in named if count < shots}
    return replace(folded, repeats=repeats, fewer=fewer)


def draw_images(
    images: np.ndarray, codes: np.ndarray, groups: np.ndarray, count: int, seed: list[int]
) -> np.ndarray:
    """Draw images of each class, of different groups as far as there are so many.

    The draw depends on the images and the seed, and not on their order. A draw of fewer images with
    the same seed is a part of it.

    Parameters
    ----------
    images : np.ndarray
        Names of the images, of shape (n,): copies have one name.
    codes : np.ndarray
        Their classes, int of shape (n,).
    groups : np.ndarray
        Their groups, of shape (n,).
    count : int
        Number of images of each class; all of a class with fewer.
    seed : list of int
        Seed of the draw.

    Returns
    -------
    np.ndarray
        bool of shape (n,): the rows of the images drawn.
    """
    names, image = np.unique(images, return_inverse=True)
    pairs, first, row = np.unique(
        codes * len(names) + image, return_index=True, return_inverse=True
    )
    own, group = codes[first], np.unique(groups[first], return_inverse=True)[1]
    key = np.random.default_rng(seed).random(len(pairs))
    place = _places(np.lexsort((key, group, own)), own * (group.max() + 1) + group)
    drawn = _places(np.lexsort((key, place, own)), own) < count
    return np.asarray(drawn[row])


def _places(order: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Return the place of each element within its run, in an order that keeps runs together."""
    ordered = runs[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[starts, len(order)])
    found = np.empty(len(order), int)
    found[order] = np.arange(len(order)) - starts.repeat(lengths)
    return found
