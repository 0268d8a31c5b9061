"""A network with one hidden layer, trained on features by epochs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_doc import Doc

from bottleneck.fields import Option, settings
from bottleneck.heads.problem import Fitted, Fold, Problem, Progress
from bottleneck.settings import MLPSettings
from bottleneck.solvers import threads_for

__all__ = ["MLP"]

_FOLDS = 5


@settings("Network of mlp")
class MLP(MLPSettings):
    """The recipe of a network, see `bottleneck.settings.MLPSettings`."""

    progress: Annotated[
        Progress | None,
        Doc('Called with "mlp", the epochs done and the most there may be.'),
        Option(hidden=True),
    ] = None

    name: ClassVar[str] = "mlp"
    parameter: ClassVar[None] = None
    grid: ClassVar[Sequence[None]] = (None,)
    margins: ClassVar[bool] = False
    multilabel: ClassVar[bool] = True
    streams: ClassVar[bool] = False

    @property
    def settings(self) -> dict[str, Any]:
        """As `bottleneck.heads.recipes.Recipe.settings`."""
        return {name: value for name, value in asdict(self).items() if name != "progress"}

    def fit(self, problem: Problem, value: None) -> Fitted:  # noqa: ARG002 - there is no parameter
        """As `bottleneck.heads.recipes.Recipe.fit`; a fifth of the rows says when to stop."""
        return self.fit_on(problem, problem.folds(_FOLDS, fewer=True)[0])

    def held_out(
        self,
        problem: Problem,
        folds: Sequence[Fold],
        grid: Sequence[None],  # noqa: ARG002 - there is no parameter
    ) -> Iterator[list[np.ndarray]]:
        """As `bottleneck.heads.recipes.Recipe.held_out`; what is held out has no say in it."""
        fitted = [self.fit(problem.take(fold.fit), None) for fold in folds]
        yield [
            each.model.scores(problem.rows[fold.held])
            for each, fold in zip(fitted, folds, strict=True)
        ]

    def fit_on(self, problem: Problem, fold: Fold) -> Fitted:
        """Train on some rows until the others, which are held out, say to stop.

        Raises
        ------
        DataError
            The training diverged.
        """
        from bottleneck.heads.training import train

        with threads_for(problem.X.size):  # again, as PyTorch is loaded only now
            return train(self, problem.take(fold.fit), problem.take(fold.held), self.progress)
