"""Deal groups of rows into stratified folds."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from bottleneck.errors import DataError, counted, some_of
from bottleneck.labels import Targets, join_classes, rarest_classes

__all__ = ["held_groups", "too_few"]

_MOST = 100
"""Number of classes that an error names."""


def held_groups(
    groups: np.ndarray, targets: Targets, count: int, seed: int, *, named: bool
) -> list[np.ndarray]:
    """Return the groups that each stratified fold holds out.

    Parameters
    ----------
    groups : np.ndarray
        Shape (n,): the group of each row.
    targets : Targets
        Labels of the n rows; those with several classes are stratified by their rarest class.
    count : int
        Number of folds.
    seed : int
        Seed of the folds.
    named : bool
        Whether groups may have any number of rows, which are then balanced across folds. Otherwise
        a group is an image with its copies, and groups are balanced.

    Returns
    -------
    list of np.ndarray
        Names of groups; those of some folds may be repeated.
    """
    names, first, group_of_row = np.unique(groups, return_index=True, return_inverse=True)
    strata = _strata(targets, count)
    if not named and (strata == strata[first][group_of_row]).all():
        return [names[own] for own in _stratified(strata[first], count, seed)]
    whole = (each.astype(np.int64).tobytes() for each in (strata, group_of_row))
    return [groups[rows] for rows in _balanced(*whole, count, seed)]


@lru_cache(maxsize=8)
def _balanced(strata: bytes, groups: bytes, count: int, seed: int) -> list[np.ndarray]:
    """Return the rows that each fold holds out; kept, as it takes long and each fit asks for it."""
    from sklearn.model_selection import StratifiedGroupKFold

    y, own = (np.frombuffer(each, np.int64) for each in (strata, groups))
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return [rows for _, rows in splitter.split(y, y, own)]


def _strata(targets: Targets, folds: int) -> np.ndarray:
    """Return the strata to balance across folds, int of shape (n,)."""
    if not targets.multilabel:
        return targets.codes
    named = [join_classes(np.compress(row, targets.classes)) for row in targets.codes]
    strata = np.unique(rarest_classes(named), return_inverse=True)[1]
    sizes = np.bincount(strata)
    return np.where(sizes[strata] < folds, sizes.argmax(), strata)


def _stratified(strata: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Return the indices that each fold holds out, as in scikit-learn's `StratifiedKFold`.

    Importing scikit-learn takes longer than fitting most heads.
    """
    _, first, codes = np.unique(strata, return_index=True, return_inverse=True)
    codes = first.argsort().argsort()[codes]  # counted as they appear
    ordered = np.sort(codes)
    shares = [np.bincount(ordered[fold::count], minlength=len(first)) for fold in range(count)]
    generator = np.random.RandomState(seed)
    held = np.empty(len(codes), dtype=int)
    for code, share in enumerate(np.transpose(shares)):
        own = np.arange(count).repeat(share)
        generator.shuffle(own)
        held[codes == code] = own
    return [np.flatnonzero(held == fold) for fold in range(count)]


def too_few(sizes: Mapping[str, int], least: int, folds: int, *, named: bool) -> DataError:
    """Return the error about classes with too few images, which names all of them.

    Parameters
    ----------
    sizes : mapping of str to int
        The number of groups of each class.
    least : int
        The number that a class needs.
    folds : int
        Number of folds.
    named : bool
        As for `held_groups`.

    Returns
    -------
    DataError
    """
    from bottleneck.images.dividing import images_needed

    small = {label: count for label, count in sizes.items() if count < least}
    listed = some_of([f"{label!r}: {count}" for label, count in small.items()], most=_MOST)
    if named:
        return DataError(
            f"{counted(len(small), 'class is', 'classes are')} in too few groups of training "
            f"images ({listed}), but {folds} folds need {least}; add groups, or leave such "
            f"classes out"
        )
    if len(small) == 1:
        ((label, count),) = small.items()
        have = f"class {label!r} has {counted(count, 'different training image')}"
    else:
        have = f"{len(small)} classes have too few different training images ({listed})"
    remedy = "add images"
    if len(small) < len(sizes):
        remedy += f", or leave such classes out: extract with `min_images={images_needed(least)}`"
    return DataError(f"{have}, but {folds} folds need {least}; {remedy}")
