"""Nested subsets of the training rows that have all classes in their shares."""

from collections.abc import Sequence

import numpy as np

from bottleneck.heads.problem import Problem

__all__ = ["LEAST_PER_CLASS", "grid_sizes", "nested_subsets"]

LEAST_PER_CLASS = 3
"""Different images of a class in the smallest subset, as far as there are so many."""
_MOST_SIZES = 6


def grid_sizes(n_rows: int, n_classes: int) -> list[int]:
    """Return how many rows the subsets have: halved again and again, ascending, all at last.

    Parameters
    ----------
    n_rows : int
        That there are.
    n_classes : int
        Of which every subset has `LEAST_PER_CLASS` rows.
    """
    halved = (n_rows // 2**k for k in range(_MOST_SIZES))
    return sorted({size for size in halved if size >= LEAST_PER_CLASS * n_classes} | {n_rows})


def nested_subsets(
    problem: Problem, fit: np.ndarray, sizes: Sequence[int], repeat: int
) -> list[np.ndarray]:
    """Return subsets of which each holds the smaller ones, bool of shape (n,) each.

    Groups are drawn in an order of which every beginning has the classes' shares; rows of a group
    come together.

    Parameters
    ----------
    problem : Problem
        n rows.
    fit : np.ndarray
        bool of shape (n,): the rows to draw from.
    sizes : sequence of int
        Rows of each subset, at most; but `LEAST_PER_CLASS` groups of each class in any case, as far
        as there are so many.
    repeat : int
        Other numbers give other subsets.
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
