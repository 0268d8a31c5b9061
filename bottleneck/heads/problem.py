"""The data that a head is fitted on, and which rows are held out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

import numpy as np

from bottleneck.errors import DataError
from bottleneck.heads.adjust import Adjust
from bottleneck.heads.strata import held_groups, too_few
from bottleneck.labels import Targets
from bottleneck.solvers import Reduction, column_moments, is_reducible, reduce_rows

if TYPE_CHECKING:
    from bottleneck.features import StreamedRows

__all__ = ["Fold", "Problem", "Progress", "Rows", "Watch", "lacking_classes", "row_weights"]

Rows: TypeAlias = "np.ndarray | StreamedRows"
"""Features in memory, or streamed if they do not fit into it."""
Progress = Callable[[str, int, int], None]
Watch = Callable[[Mapping[str, float]], None]
"""Takes the metrics of an epoch."""
_ATTEMPTS = 20
"""To deal groups so that no fold lacks training images of a class, each with another seed."""
_AS_THEY_ARE = Adjust()
_APART = 1_000_003
"""What is between the seeds of attempts, so that no other repetition has them."""


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows to fit on and rows held out, bool of shape (n,) each."""

    fit: np.ndarray
    held: np.ndarray


@dataclass(frozen=True, eq=False)
class Problem:
    """Features and labels that a classifier is fitted on.

    Attributes
    ----------
    X : np.ndarray or StreamedRows
        Shape (n, d).
    targets : Targets
        Labels of the n rows.
    groups : np.ndarray
        Shape (n,): rows of one group stay in one fold.
    weights : np.ndarray
        Shape (n,): sample weights.
    plain : np.ndarray
        bool of shape (n,): True for unaugmented rows, which may be held out. The others are
        augmented views of rows of their group, and only fitted on.
    balanced : bool
        Whether each class has the same total weight, however many rows it has.
    standardize : bool
        Whether each feature is divided by its standard deviation over the rows fitted on, see
        `bottleneck.solvers.reduction.divisors`.
    seed : int
        Seed of folds and training.
    device : str
        PyTorch device that trains mlp.
    n_features : int
        Number of features that `X` was reduced from, see `reduced`; 0 if it was not.
    adjust : Adjust
        What has been done with the rows of `X`, and is to be done with other rows.
    named : bool
        Whether groups are those that images were given, such as patients; otherwise a group is an
        image with its copies and views.
    """

    X: Rows
    targets: Targets
    groups: np.ndarray
    weights: np.ndarray
    plain: np.ndarray
    balanced: bool
    standardize: bool
    seed: int
    device: str
    n_features: int = 0
    adjust: Adjust = _AS_THEY_ARE
    named: bool = False

    @property
    def rows(self) -> np.ndarray:
        """The features, if they are in memory."""
        return cast("np.ndarray", self.X)

    @property
    def scaling(self) -> dict[str, Any]:
        """How features are scaled: the options of `bottleneck.solvers.column_moments`."""
        return {"standardize": self.standardize, "widths": self.adjust.widths}

    def reduction(self, fit: np.ndarray | None = None) -> Reduction:
        """Return reduced rows, standardised over the rows of `fit`, or over all rows.

        Rows that are `reduced` are their own reduction.

        Parameters
        ----------
        fit : np.ndarray, optional
            bool of shape (n,).

        Returns
        -------
        Reduction
        """
        if self.n_features:
            width = self.rows.shape[1]
            return Reduction(self.rows, np.zeros(width), np.ones(width), self.n_features, None)
        return reduce_rows(self.X, self._weights_of(fit), **self.scaling)

    def reduced(self, fold: Fold) -> Self:
        """Return the problem on rows that are standardised and reduced once, for a fold.

        The folds within it then share this reduction, which takes longer than most fits.

        Parameters
        ----------
        fold : Fold
            The rows are standardised over those that it fits on.

        Returns
        -------
        Problem
            The same rows; those that cannot be reduced are left as they are.
        """
        if not is_reducible(self.X):
            return self
        found = self.reduction(fold.fit)
        return replace(self, X=found.rows, standardize=False, n_features=found.n_features)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and scale of the features, of shape (d,) each, used in the reduction."""
        return column_moments(self.rows, self._weights_of(None), **self.scaling)

    def _weights_of(self, fit: np.ndarray | None) -> np.ndarray | None:
        """Return sample weights for the moments, or a boolean mask if all weights are 1."""
        if (self.weights == 1).all():
            return fit
        return self.weights if fit is None else self.weights * fit

    def sample_weights(self, fit: np.ndarray) -> np.ndarray:
        """Return the weight of each row, 0 where it is not fitted on.

        Parameters
        ----------
        fit : np.ndarray
            bool of shape (n,).

        Returns
        -------
        np.ndarray
            Shape (n,), or (n, k) if a row has a weight for each of its classes.
        """
        return row_weights(self.targets, fit * self.weights, balanced=self.balanced)

    def take(self, rows: np.ndarray) -> Self:
        """Return the problem restricted to some rows.

        Parameters
        ----------
        rows : np.ndarray
            Boolean mask of shape (n,), or indices.

        Returns
        -------
        Problem
        """
        return replace(
            self,
            X=self.X[rows],
            targets=self.targets.take(rows),
            groups=self.groups[rows],
            weights=self.weights[rows],
            plain=self.plain[rows],
        )

    def folds(
        self, count: int, *, fewer: bool = False, least: int = 2, repeat: int = 0
    ) -> list[Fold]:
        """Split the rows into stratified folds that keep groups together.

        Rows with several classes are stratified by their rarest class. Only unaugmented rows are
        split; augmented views are fitted on where the other rows of their group are.

        Parameters
        ----------
        count : int
            Number of folds. There are fewer if a class has fewer groups.
        fewer : bool
            Whether all classes may have fewer groups than that.
        least : int
            Number of groups that a class needs.
        repeat : int
            Number of the repetition; each gives different folds.

        Returns
        -------
        list of Fold

        Raises
        ------
        DataError
            Classes have too few groups, or are missing from the rows of a fold.
        """
        sizes = self.sizes(self.plain)
        if not fewer and max(sizes.values()) < count:
            raise too_few(sizes, count, count, named=self.named)
        if min(sizes.values()) < least:
            raise too_few(sizes, least, min(count, least), named=self.named)
        fewest = min(count, *sizes.values())
        for attempt in range(_ATTEMPTS):
            folds = self._dealt(fewest, self.seed + repeat + attempt * _APART)
            if all(self._suffices(fold, least) for fold in folds):
                return folds
        if self.named:
            raise DataError(
                f"{fewest} folds that part no group would leave too few groups of some class to "
                f"fit on; add groups"
            )
        raise DataError(
            "a fold would have no training images of some class, because identical images have "
            "several labels, or rare classes share images; correct the labels or add images"
        )

    def _dealt(self, count: int, seed: int) -> list[Fold]:
        plain = self.plain
        targets = self.targets.take(plain)
        dealt = held_groups(self.groups[plain], targets, count, seed % 2**32, named=self.named)
        held = [np.isin(self.groups, own) for own in dealt]
        return [Fold(~rows, rows & plain) for rows in held]

    def _suffices(self, fold: Fold, least: int) -> bool:
        """Return whether a fold has rows of each class to fit on, and some of one less group."""
        if not fold.held.any() or lacking_classes(self.targets.take(fold.fit)).any():
            return False
        return not self.named or min(self.sizes(fold.fit).values()) >= least - 1

    def folds_within(self, fold: Fold, count: int, *, least: int = 2) -> list[Fold]:
        """Split the rows that a fold fits on, as `folds` does; the rows that it holds are in none.

        Parameters
        ----------
        fold : Fold
            Rows of this problem.
        count, least : int
            As for `folds`, with fewer folds if all classes have fewer groups.

        Returns
        -------
        list of Fold
            bool of shape (n,), as those of the fold.

        Raises
        ------
        DataError
            See `folds`.
        """
        found = self.take(fold.fit).folds(count, fewer=True, least=least)
        whole = [np.zeros((2, len(fold.fit)), dtype=bool) for _ in found]
        for rows, own in zip(whole, found, strict=True):
            rows[:, fold.fit] = own.fit, own.held
        return [Fold(*rows) for rows in whole]

    def sizes(self, rows: np.ndarray) -> dict[str, int]:
        """Return the number of groups of each class; of those without it, if they are fewer.

        Parameters
        ----------
        rows : np.ndarray
            bool of shape (n,): the rows to count.

        Returns
        -------
        dict of str to int
        """
        groups = np.unique(self.groups[rows], return_inverse=True)[1]
        codes = self.targets.codes[rows]
        if self.targets.multilabel:
            each = [
                min(len(np.unique(groups[own])), len(np.unique(groups[~own]))) for own in codes.T
            ]
        else:
            pairs = np.unique(codes * (groups.max() + 1) + groups) // (groups.max() + 1)
            each = np.bincount(pairs, minlength=len(self.targets.classes)).tolist()
        return dict(zip(self.targets.classes, each, strict=True))


def lacking_classes(targets: Targets) -> np.ndarray:
    """Return which classes a fit would lack rows of, or without, if rows may have several.

    Parameters
    ----------
    targets : Targets
        Labels of the n rows to fit on, with k classes.

    Returns
    -------
    np.ndarray
        bool of shape (k,).
    """
    members = targets.indicators.sum(axis=0)
    return np.asarray((members == 0) | (targets.multilabel & (members == len(targets))))


def row_weights(targets: Targets, weights: np.ndarray, *, balanced: bool) -> np.ndarray:
    """Return the weight of each row in a fit, as `Problem.sample_weights` does.

    Parameters
    ----------
    targets : Targets
        Labels of the n rows.
    weights : np.ndarray
        Shape (n,): sample weights, 0 where a row is not fitted on.
    balanced : bool
        Whether each class has the same total weight, however many rows it has.

    Returns
    -------
    np.ndarray
        Shape (n,); or (n, k) if `balanced` and rows may have several classes.
    """
    if not balanced:
        return weights
    total = weights.sum()
    if targets.multilabel:
        members = weights @ targets.codes
        each = np.where(targets.codes, members, total - members)
        return np.asarray(weights[:, None] * total / (2 * each))
    members = np.bincount(targets.codes, weights, len(targets.classes))
    return np.asarray(weights * (total / (len(members) * members))[targets.codes])
