"""What a base computes of images, and what has come of it."""

from dataclasses import dataclass, field

from bottleneck.extract.compute import Remarks
from bottleneck.extract.plan import Task
from bottleneck.extract.store import Target

__all__ = ["Outcome", "Part"]


@dataclass
class Outcome:
    """What was computed.

    Attributes
    ----------
    rows : int
        Number of views computed, unaugmented images included.
    bytes_written : int
        Size of the added features.
    seconds : float
        Time in which workers computed them.
    bad : dict of str to str
        Digest to reason, for images that could not be used.
    remarks : Remarks
        What is to know of the images beside their features.
    elsewhere : set of str
        Digests of the images that were missing at first and that other processes have computed.
    """

    rows: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    bad: dict[str, str] = field(default_factory=dict)
    remarks: Remarks = field(default_factory=Remarks)
    elsewhere: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Part:
    """A base's share of the images that are computed together.

    Attributes
    ----------
    task : Task
        Layers, and the views to compute of each image.
    target : Target
        The banks to store them in.
    outcome : Outcome
        Updated by what was computed.
    """

    task: Task
    target: Target
    outcome: Outcome = field(default_factory=Outcome)
