"""The time that a search may take, and how it is divided."""

import time
from dataclasses import dataclass, field
from math import inf

__all__ = ["Clock"]


@dataclass(frozen=True)
class Clock:
    """The time that a search may take, from now on.

    Attributes
    ----------
    minutes : float or None
        None for no limit.
    begun : float
        When it began, on the clock of `time.monotonic`.
    """

    TRIALS = 0.15
    EXTRACTION = 0.7
    SWEEP = 0.85
    """Fractions of the time after which each stage has ended; the rest is for fitting the head."""

    minutes: float | None = None
    begun: float = field(default_factory=time.monotonic)

    def end_of(self, stage: float = 1.0) -> float:
        """Return when a stage ends.

        Parameters
        ----------
        stage : float
            Fraction of the whole time, such as `EXTRACTION`.

        Returns
        -------
        float
            On the clock of `time.monotonic`; infinite without a limit.
        """
        return inf if self.minutes is None else self.begun + 60 * self.minutes * stage

    def left(self, stage: float = 1.0) -> float:
        """Return the seconds until a stage ends.

        Parameters
        ----------
        stage : float
            As for `end_of`.

        Returns
        -------
        float
            Negative if it should have ended.
        """
        return self.end_of(stage) - time.monotonic()
