"""A network with one hidden layer, trained on features by epochs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from bottleneck.errors import UsageError
from bottleneck.heads.problem import Fitted, Fold, Problem
from bottleneck.solvers import threads_for

__all__ = ["MLP"]

_FOLDS = 5

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class MLP:
    """Dense, rectified, dropout, dense: the classic top of a frozen convolutional base.

    Trained by AdamW (Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization) on
    standardised features; kept are the weights of the epoch with the lowest held-out log loss.

    Attributes
    ----------
    hidden : int
        Units of the hidden layer.
    dropout : float
        Share of them that is left out in each step.
    epochs : int
        How often all rows are gone through, at most.
    patience : int
        After how many epochs without a lower held-out log loss the training ends.
    learning_rate : float
        Of AdamW.
    batch_size : int
        Rows in a step.
    progress : callable, optional
        Called with ``"mlp"``, the epochs done and the most there may be.
    """

    hidden: int = 256
    dropout: float = 0.5
    epochs: int = 100
    patience: int = 10
    learning_rate: float = 1e-3
    batch_size: int = 64
    progress: Progress | None = None

    name: ClassVar[str] = "mlp"
    parameter: ClassVar[None] = None
    grid: ClassVar[Sequence[None]] = (None,)
    margins: ClassVar[bool] = False
    multilabel: ClassVar[bool] = True
    streams: ClassVar[bool] = False

    def __post_init__(self) -> None:
        counts = {"hidden": self.hidden, "epochs": self.epochs, "patience": self.patience}
        for name, value in {**counts, "batch_size": self.batch_size}.items():
            if value < 1:
                raise UsageError(f"{name} is {value}, expected at least 1; give another")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout is {self.dropout}, expected from 0 to below 1; give another")
        if not 0 < self.learning_rate < float("inf"):
            raise UsageError(f"learning_rate is {self.learning_rate}, expected above 0; try 0.001")

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
            return train(self, problem.take(fold.fit), problem.take(fold.held))
