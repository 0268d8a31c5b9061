"""What a head is fitted on, and which rows of it are held out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias, cast

import numpy as np

from bottleneck.errors import DataError
from bottleneck.heads.models import Model
from bottleneck.labels import Targets, join_classes, rarest_classes
from bottleneck.solvers import Reduction, column_moments, reduce_rows

if TYPE_CHECKING:
    from bottleneck.features import StreamedRows

__all__ = ["Fitted", "Fold", "Problem", "Progress", "Rows", "row_counts"]

Rows: TypeAlias = "np.ndarray | StreamedRows"
"""Features in memory, or read in blocks where they do not fit there."""
Progress = Callable[[str, int, int], None]


class Fitted(NamedTuple):
    """What was fitted.

    Attributes
    ----------
    model : Model
        Of features as they are.
    converged : bool
        Whether the solver converged.
    history : list of dict
        Metrics of each epoch, where there were any.
    """

    model: Model
    converged: bool = True
    history: Sequence[dict[str, Any]] = ()


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
        n rows.
    groups : np.ndarray
        Shape (n,): rows of one group stay in one fold.
    weights : np.ndarray
        Shape (n,): sample weights.
    plain : np.ndarray
        bool of shape (n,): rows that may be held out. All others are augmented views of rows of
        their group, which are only fitted on.
    balanced : bool
        Whether each class has the same weight, however many rows it has.
    standardize : bool
        Whether each feature is divided by its deviation over the rows fitted on.
    seed : int
        Of folds and of what is random in training.
    device : str
        What mlp is trained on, as PyTorch names it.
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

    @property
    def rows(self) -> np.ndarray:
        """The features of a problem that fits into memory."""
        return cast("np.ndarray", self.X)

    def reduction(self, fit: np.ndarray | None = None) -> Reduction:
        """Return the reduced rows, standardised by those that `fit` says, or by all.

        Parameters
        ----------
        fit : np.ndarray, optional
            bool of shape (n,).

        Returns
        -------
        Reduction
        """
        return reduce_rows(self.rows, self._counted(fit), standardize=self.standardize)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and scale of the features, of shape (d,) each, by which rows are reduced."""
        return column_moments(self.rows, self._counted(None), standardize=self.standardize)

    def _counted(self, fit: np.ndarray | None) -> np.ndarray | None:
        """Return the weights of rows for the moments, or which have any where all are 1."""
        if (self.weights == 1).all():
            return fit
        return self.weights if fit is None else self.weights * fit

    def counts(self, fit: np.ndarray) -> np.ndarray:
        """Return the weight of each row where it is fitted on.

        Parameters
        ----------
        fit : np.ndarray
            bool of shape (n, f).

        Returns
        -------
        np.ndarray
            Shape (n, f), or (n, f, k) where each of a row's several classes has a weight.
        """
        return row_counts(self.targets, fit * self.weights[:, None], balanced=self.balanced)

    def take(self, rows: np.ndarray) -> Self:
        """Return the problem of some rows.

        Parameters
        ----------
        rows : np.ndarray
            bool of shape (n,), or places from 0 on.

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

    def folds(self, count: int, *, fewer: bool = False, repeat: int = 0) -> list[Fold]:
        """Split the rows into stratified folds, where groups stay together.

        Where rows may be of several classes, they are stratified by their rarest one. The folds are
        those of the plain rows alone; views are fitted on where those of their group are.

        Parameters
        ----------
        count : int
            How many.
        fewer : bool
            Whether there may be fewer, where a class has fewer groups.
        repeat : int
            Other numbers give other folds.

        Returns
        -------
        list of Fold

        Raises
        ------
        DataError
            A class has fewer groups than folds are needed, or is missing in one of them.
        """
        most, rarest = self._most_folds()
        needed = 2 if fewer else count
        if most < needed:
            raise DataError(
                f"class {rarest!r} has {most} different training image{'s' * (most != 1)}; "
                f"{needed} folds need {needed}: add images"
            )
        held = [np.isin(self.groups, own) for own in self._held_groups(min(count, most), repeat)]
        folds = [Fold(~rows, rows & self.plain) for rows in held]
        for fold in folds:
            there = self.targets.take(fold.fit).indicators
            alike = self.targets.multilabel and there.all(axis=0).any()
            if alike or not there.any(axis=0).all():
                raise DataError(
                    "identical images stand under several classes, or rare classes stand together, "
                    "which leaves a fold without one: correct the labels or add images"
                )
        return folds

    def _held_groups(self, count: int, repeat: int) -> list[np.ndarray]:
        """Return the groups that each of stratified folds holds out."""
        seed = (self.seed + repeat) % 2**32
        groups, targets = self.groups[self.plain], self.targets.take(self.plain)
        names, first, group_of_row = np.unique(groups, return_index=True, return_inverse=True)
        strata = _strata(targets, count)
        if (strata == strata[first][group_of_row]).all():
            return [names[own] for own in _stratified(strata[first], count, seed)]

        from sklearn.model_selection import StratifiedGroupKFold

        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        return [groups[rows] for _, rows in splitter.split(strata, strata, group_of_row)]

    def _most_folds(self) -> tuple[int, str]:
        """Return of how many groups the rarest class is (or what is not of it), and its name."""
        groups = np.unique(self.groups, return_inverse=True)[1]
        indicators = self.targets.indicators
        each = [len(np.unique(groups[own])) for own in indicators.T]
        if self.targets.multilabel:
            others = [len(np.unique(groups[~own])) for own in indicators.T]
            each = list(map(min, each, others))
        return min(each), self.targets.classes[int(np.argmin(each))]


def row_counts(targets: Targets, counts: np.ndarray, *, balanced: bool) -> np.ndarray:
    """Return the weights of rows in each fold, as `Problem.counts` does.

    Parameters
    ----------
    targets : Targets
        n rows.
    counts : np.ndarray
        Shape (n, f): their sample weights, 0 where they are not fitted on.
    balanced : bool
        Whether each class has the same weight in a fold, however many rows it has there.

    Returns
    -------
    np.ndarray
        Shape (n, f); or (n, f, k) if `balanced`, where a row may be of several classes.
    """
    if not balanced:
        return np.asarray(counts)
    total = counts.sum(axis=0)
    if targets.multilabel:
        indicators = targets.codes[:, None, :]
        members = np.where(indicators, counts[..., None], 0).sum(axis=0)
        each = np.where(indicators, members, total[:, None] - members)
        return np.asarray(counts[..., None] * total[:, None] / (2 * each))
    k = len(targets.classes)
    members = np.stack(
        [np.bincount(targets.codes, weights=fold, minlength=k) for fold in counts.T], axis=1
    )
    return np.asarray(counts * (total / (k * members))[targets.codes])


def _strata(targets: Targets, folds: int) -> np.ndarray:
    """Return what the folds are to have equal shares of, int of shape (n,)."""
    if not targets.multilabel:
        return targets.codes
    named = [join_classes(np.compress(row, targets.classes)) for row in targets.codes]
    strata = np.unique(rarest_classes(named), return_inverse=True)[1]
    sizes = np.bincount(strata)
    return np.where(sizes[strata] < folds, sizes.argmax(), strata)


def _stratified(strata: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Return the places that each fold holds out: those of scikit-learn's `StratifiedKFold`.

    Importing that one takes longer than fitting most heads.
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
