"""What commands show of a training in epochs: lines, pictures, and files for TensorBoard."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from math import ceil, inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottleneck.cli.output import wanted
from bottleneck.cli.streams import note
from bottleneck.errors import counted

if TYPE_CHECKING:
    from bottleneck.finetune.trial import EpochForecast

__all__ = ["EpochLines", "draw_epochs", "epochs_shown", "print_reading"]

_LINES = 20
"""Of more epochs, about so many have a line, at equal distances;"""
_SECONDS = 5.0
"""and so has each one that ends so long after the last line."""
_MINUTE = 60
_HEADINGS = f"{'epoch':>9}{'loss':>10}{'accuracy':>10}{'val loss':>10}{'val accuracy':>14}"


class EpochLines:
    """Prints lines about epochs on standard error: in columns on a terminal, in words in a pipe.

    No epochs are printed where results are printed as JSON.

    Parameters
    ----------
    epochs : int
        Maximum number of epochs.
    log : callable, optional
        Also called with each epoch.
    """

    def __init__(
        self, epochs: int, log: Callable[[Mapping[str, float]], None] | None = None
    ) -> None:
        self._epochs, self._log = epochs, log
        self._lowest, self._last, self._began = inf, time.monotonic(), False

    def announce(self, forecast: "EpochForecast") -> None:
        """Print what the epochs will take.

        Parameters
        ----------
        forecast : EpochForecast
            The result of a trial.
        """
        planned, asked = forecast.epochs, self._epochs
        left = f", {planned - forecast.done} left" if forecast.done else ""
        facts = [
            f"{planned} of {counted(asked, 'epoch')} planned{left}"
            if planned < asked
            else f"at most {counted(planned, 'epoch')}{left}",
            f"{_duration(forecast.seconds_per_epoch)} each",
            f"{_duration(forecast.seconds)} in all",
        ]
        if memory := forecast.peak_memory:
            facts.append(f"{memory / 1e9:.1f} GB of {'GPU ' * forecast.on_gpu}memory")
        note(f"finetune: {', '.join(facts)}")
        self._epochs = planned

    def watch(self, epoch: Mapping[str, float]) -> None:
        """Log an epoch, and print its line.

        Parameters
        ----------
        epoch : mapping
            Its entry in the history.
        """
        if self._log:
            self._log(epoch)
        lowest = epoch["val_loss"] < self._lowest
        self._lowest = min(self._lowest, epoch["val_loss"])
        if not wanted("json") and self._is_due(int(epoch["epoch"])):
            self._print(epoch, lowest=lowest)
            self._last, self._began = time.monotonic(), True

    def _is_due(self, number: int) -> bool:
        at_distance = number % ceil(self._epochs / _LINES) == 0
        return at_distance or not self._began or time.monotonic() - self._last >= _SECONDS

    def _print(self, epoch: Mapping[str, float], *, lowest: bool) -> None:
        number = int(epoch["epoch"])
        if not sys.stderr.isatty():
            note(
                f"epoch {number} of {self._epochs}: loss {epoch['loss']:.4g}, accuracy "
                f"{epoch['accuracy']:.4f}; validation loss {epoch['val_loss']:.4g}, accuracy "
                f"{epoch['val_accuracy']:.4f}"
            )
            return
        if not self._began:
            note(_HEADINGS)
        note(
            f"{f'{number}/{self._epochs}':>9}{epoch['loss']:>10.4g}{epoch['accuracy']:>10.4f}"
            f"{epoch['val_loss']:>10.4g}{epoch['val_accuracy']:>14.4f}{'  lowest' * lowest}"
        )


def _duration(seconds: float) -> str:
    if seconds >= _MINUTE:
        return str(timedelta(seconds=round(seconds)))
    return f"{seconds:.2g} s"


@contextmanager
def epochs_shown(name: str, epochs: int, tensorboard: Path | None) -> Iterator[EpochLines]:
    """Yield what prints the epochs of a training, and logs them for TensorBoard if requested.

    Parameters
    ----------
    name : str
        Name of the head, and of its folder for TensorBoard.
    epochs : int
        Maximum number of epochs.
    tensorboard : Path or None
        Folder of the logs.

    Yields
    ------
    EpochLines

    Raises
    ------
    MissingExtraError
        See `bottleneck.pictures.epoch_log`.
    """
    from bottleneck.pictures import epoch_log

    with epoch_log(tensorboard / name) if tensorboard else nullcontext() as log:
        yield EpochLines(epochs, log)


def print_reading(scores: Mapping[str, Any]) -> None:
    """Print what the curves of a training show, if there are any.

    Parameters
    ----------
    scores : mapping
        Scores of a head.
    """
    if "reading" in scores:
        print(f"curves: {scores['reading']}")


def draw_epochs(scores: Mapping[str, Any], name: str, picture: Path | None) -> None:
    """Draw the history of a training, if a picture was requested.

    Parameters
    ----------
    scores : mapping
        Scores of a head with its history; if that is empty, nothing is drawn.
    name : str
        Title of the picture.
    picture : Path or None
        Path of the picture.

    Raises
    ------
    UsageError, MissingExtraError
        See `bottleneck.pictures.draw_training`.
    """
    from bottleneck.pictures import draw_training

    if picture and scores["history"]:
        draw_training(scores, name, picture)
        note(f"epochs drawn to {picture}")
