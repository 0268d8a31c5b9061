"""Choose a candidate on held-out rows, and score the choice on rows that it was not made on."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bottleneck.experiments import standard_error
from bottleneck.heads.scoring import (
    calibration_error,
    extreme_losses,
    fit_temperature,
    guessing_loss,
    log_losses,
    log_probabilities,
    score_metrics,
)
from bottleneck.labels import Targets

__all__ = ["Choice", "deal_groups"]

_PARTS = 5


class Choice:
    """The candidate with the lowest log loss on held-out rows: a `C`, or an epoch of a training.

    The scores by which it was chosen are too good, as they are the best of several. Therefore the
    choice is also made without each part of the rows, and that part is scored by what was chosen on
    the others. This needs no further fit. Where parts are the folds of a cross-validation, what was
    fitted for the other folds has seen the part, so that a little of the selection remains: on
    labels at random, less than 0.01 of accuracy for knn on 60 rows, and none that could be measured
    for linear heads.

    Parameters
    ----------
    link : str
        See `bottleneck.heads.scoring.link_of`.
    targets : Targets
        Labels of the n held-out rows.
    parts : np.ndarray
        int of shape (n,): the part of each row, see `deal_groups`; or its fold.
    margins : bool
        Whether each candidate is compared at the temperature that suits it best, as margins and
        distances, and networks whose temperature is fitted again at the end.
    temperature : float
        Otherwise divides the scores of all candidates; kept at the end unless another is better.
    cautious : np.ndarray, optional
        Shape (n,): the group of each row. A candidate is then chosen in place of the first one only
        if its log loss is lower by more than one standard error of the difference, paired over the
        groups (Breiman et al., Classification and Regression Trees, 1984).

    Attributes
    ----------
    best, first : np.ndarray
        Scores (n, k) of the candidate that is chosen on all rows, and of the first one.
    """

    first: np.ndarray

    def __init__(
        self,
        link: str,
        targets: Targets,
        parts: np.ndarray,
        *,
        margins: bool = False,
        temperature: float = 1.0,
        cautious: np.ndarray | None = None,
    ) -> None:
        self._link, self._targets = link, targets
        self._margins, self._known = margins, temperature
        own = [parts == part for part in np.unique(parts)]
        # A single part has no others to choose on.
        self._parts = own if len(own) > 1 else []
        self._groups = list[np.ndarray]()
        if cautious is not None:
            names, groups = np.unique(cautious, return_inverse=True)
            groups = groups if len(names) > 1 else np.arange(len(groups))
            self._groups = [groups, *(groups[~part] for part in self._parts)]
        self._losses = [np.inf] * (1 + len(self._parts))
        self._before: list[np.ndarray] = []  # losses of the first, on the rows of each choice
        self._scores: list[np.ndarray] = []
        self._fitted: tuple[np.ndarray | None, float] = None, temperature

    @property
    def best(self) -> np.ndarray:  # noqa: D102 - see Attributes
        return self._scores[0]

    def offer(self, scores: np.ndarray) -> bool:
        """Compare a candidate with the best so far; return whether it is chosen on all rows.

        Of several equally good candidates, the last one is.

        Parameters
        ----------
        scores : np.ndarray
            Held-out scores of shape (n, k), not to be changed later.

        Returns
        -------
        bool
        """
        losses, first = self._losses_on(scores), not self._scores
        if first:
            self.first, self._scores = scores, [scores] * len(losses)
            self._before = losses
        won = [first or self._wins(number, own) for number, own in enumerate(losses)]
        for number, own in enumerate(losses):
            if won[number]:
                self._losses[number], self._scores[number] = float(own.mean()), scores
        return won[0]

    def _wins(self, number: int, losses: np.ndarray) -> bool:
        """Return whether a candidate is to be chosen, by its losses on the rows of a choice."""
        if losses.mean() > self._losses[number]:
            return False
        if not self._groups:
            return True
        gains = self._before[number] - losses
        return bool(gains.mean() > standard_error(gains, self._groups[number]))

    def _losses_on(self, scores: np.ndarray) -> list[np.ndarray]:
        """Return the log losses of all rows, and of those without each part."""
        rows = [np.ones(len(scores), dtype=bool), *(~part for part in self._parts)]
        if not self._margins:
            each = log_losses(self._link, scores, self._targets, self._known)
            return [each[own] for own in rows]
        found: list[np.ndarray] = []
        for own in rows:
            some = scores[own], self._targets.take(own)
            temperature = fit_temperature(self._link, *some)
            if not found:
                self._fitted = scores, temperature
            found.append(log_losses(self._link, *some, temperature))
        return found

    def state(self) -> dict[str, np.ndarray]:
        """Return the choices so far as arrays."""
        scores = np.stack(self._scores)
        return {"losses": np.array(self._losses), "scores": scores, "first": self.first}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from the result of `state`.

        Parameters
        ----------
        state : mapping of str to np.ndarray
            For the same rows and parts.
        """
        self._losses, self._scores = state["losses"].tolist(), list(state["scores"])
        self.first = state["first"]
        self._before = self._losses_on(self.first)

    def metrics(self, scores: np.ndarray) -> dict[str, float]:
        """Return the metrics of a candidate on the rows that it is chosen on.

        Parameters
        ----------
        scores : np.ndarray
            As for `offer`.

        Returns
        -------
        dict of str to float
            See `bottleneck.heads.scoring.score_metrics` and
            `bottleneck.heads.scoring.extreme_losses`.
        """
        offered, temperature = self._fitted
        if self._margins and offered is not scores:
            temperature = fit_temperature(self._link, scores, self._targets)
        rows = self._link, scores, self._targets, temperature
        return score_metrics(*rows) | extreme_losses(*rows)

    def unselected(self) -> np.ndarray:
        """Return scores (n, k): of each part, those of what is best on the other rows.

        If the first candidate was kept cautiously, they are its own, as nothing was selected.
        """
        found = self.best.copy()
        if self._groups and np.array_equal(found, self.first):
            return found
        for part, scores in zip(self._parts, self._scores[1:], strict=True):
            found[part] = scores[part]
        return found

    def calibrated(self, *, fit: bool = True) -> tuple[float, dict[str, Any]]:
        """Fit a temperature, and score what was chosen.

        A new temperature is kept only if, fitted without each part of the rows, it lowers the log
        loss of these parts and does not raise their calibration error.

        Parameters
        ----------
        fit : bool
            Whether to look for a new temperature.

        Returns
        -------
        temperature : float
            The temperature of `best`.
        scores : dict
            Metrics of rows that neither the candidate nor the temperature was chosen on, with
            ``calibration_error_without_temperature``, ``guessing_log_loss``, see
            `bottleneck.heads.scoring.guessing_loss`, ``extreme_images`` and ``extreme_loss_share``,
            see `bottleneck.heads.scoring.extreme_losses`; and, as ``selected``, those of `best` on
            the rows that it was chosen on.
        """
        link, targets, known = self._link, self._targets, self._known
        unselected, temperatures = self.unselected(), np.full((len(targets), 1), known)
        for part, scores in zip(self._parts, self._scores[1:], strict=True):
            others = scores[~part], targets.take(~part)
            temperatures[part] = fit_temperature(link, *others)
        found, without = (
            score_metrics(link, unselected, targets, each) for each in (temperatures, known)
        )
        better = fit and (
            found["log_loss"] < without["log_loss"]
            and found["calibration_error"] <= without["calibration_error"]
        )
        temperature = fit_temperature(link, self.best, targets) if better else known
        plain = np.exp(log_probabilities(link, unselected, 1.0))
        extreme = extreme_losses(link, unselected, targets, temperatures if better else known)
        return temperature, {
            **(found if better else without),
            **extreme,
            "calibration_error_without_temperature": calibration_error(plain, targets),
            "guessing_log_loss": guessing_loss(targets),
            "selected": score_metrics(link, self.best, targets, temperature),
        }


def deal_groups(
    groups: np.ndarray, count: int = _PARTS, targets: Targets | None = None, *, seed: int = 0
) -> np.ndarray:
    """Deal rows into parts at random; the rows of a group stay together.

    Parameters
    ----------
    groups : np.ndarray
        Shape (n,): the group of each row.
    count : int
        Number of parts; fewer if there are fewer groups.
    targets : Targets, optional
        Labels of the n rows, to deal class by class, as far as rows have one class each. Otherwise
        a part has less of what the others have more of, and what is chosen on these looks worse.
    seed : int
        Seed of the draw.

    Returns
    -------
    np.ndarray
        int of shape (n,): the part of each row.
    """
    _, first, group_of_row = np.unique(groups, return_index=True, return_inverse=True)
    order = first.argsort().argsort()  # of groups as they appear
    drawn = np.random.default_rng(seed).permutation(len(first))
    if targets is not None and not targets.multilabel:
        sequence = np.lexsort((drawn, targets.codes[np.sort(first)]))
        drawn[sequence] = np.arange(len(first))
    return np.asarray((drawn % count)[order[group_of_row]])
