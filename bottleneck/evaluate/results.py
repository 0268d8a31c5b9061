"""What an evaluation says of a head, of its classes and of single images."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bottleneck.files import atomic_write

__all__ = ["ClassMetrics", "Evaluation", "Misclassified", "UnknownClass"]


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class.

    Attributes
    ----------
    label : str
        The class.
    images : int
        Images that have the label.
    precision, recall : float or None
        None if no image was given the label, or no image has it.
    precision_interval, recall_interval : tuple of float or None
        Their 95% score intervals, as of the accuracy.
    average_precision : float or None
        Mean precision over the images that have the label, ranked by score; None if none has.
    """

    label: str
    images: int
    precision: float | None
    recall: float | None
    average_precision: float | None
    precision_interval: tuple[float, float] | None = None
    recall_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class UnknownClass:
    """A class that a head does not know.

    Attributes
    ----------
    label : str
        The class.
    images : int
        Number of its images.
    """

    label: str
    images: int


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a head on a split.

    Attributes
    ----------
    split : str
        ``test``, ``val`` or ``train``.
    images : int
        Images evaluated.
    leaks : int
        Images that are identical to an image of another split, or in a group with one. Those of
        ``test`` and ``val`` are not held out, and are left out of all metrics.
    accuracy : float
        Fraction of images classified correctly: in all of their classes, if they may have several.
    accuracy_interval : tuple of float
        95% score interval of the accuracy (Wilson 1927, Probable Inference, the Law of Succession,
        and Statistical Inference). Where images are in groups, it counts these, see
        `bottleneck.experiments.share_interval`.
    balanced_accuracy : float
        Mean recall of the classes that have images; if images may have several classes, the mean of
        their recall and specificity.
    average_precision : float
        Mean over the classes that have images.
    log_loss : float
        Mean negative log probability of an image's own label, in nats; if images may have several
        classes, of the right answer for each class.
    calibration_error : float
        Mean difference between confidence and accuracy, see `bottleneck.heads.calibration_error`.
    classes : list of ClassMetrics
        In the head's order.
    confusion : list of list of int or None
        Rows: true labels; columns: predicted labels. None if images may have several classes.
    unknown_classes : list of UnknownClass
        Classes that the head was not fitted on; their images are not scored.
    extreme_images, extreme_loss_share : int, float
        Few images that make most of the log loss, see `bottleneck.heads.scoring.extreme_losses`.
    groups : int
        Number of their groups, which the intervals count; as many as images if each stands alone.
    """

    split: str
    images: int
    leaks: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    balanced_accuracy: float
    average_precision: float
    log_loss: float
    calibration_error: float
    classes: list[ClassMetrics]
    confusion: list[list[int]] | None
    unknown_classes: list[UnknownClass] = field(default_factory=list)
    extreme_images: int = 0
    extreme_loss_share: float = 0.0
    groups: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation in JSON types."""
        return asdict(self)

    def worst_confusions(self, most: int) -> list[dict[str, Any]]:
        """Return the pairs of classes that were confused most often.

        Parameters
        ----------
        most : int
            Maximum number of pairs.

        Returns
        -------
        list of dict
            The most frequent first: ``label`` and ``predicted``, the number of ``images`` and their
            ``share`` of the images of their class. Empty if images may have several classes.
        """
        names = [each.label for each in self.classes]
        found: list[dict[str, Any]] = [
            {
                "label": names[row],
                "predicted": names[column],
                "images": count,
                "share": count / sum(counts),
            }
            for row, counts in enumerate(self.confusion or [])
            for column, count in enumerate(counts)
            if count and column != row
        ]
        return sorted(found, key=lambda each: (-each["images"], -each["share"]))[:most]

    def save(self, file: str | Path) -> None:
        """Write the evaluation as JSON, completely or not at all.

        Parameters
        ----------
        file : str or Path
            Path of the file.

        Raises
        ------
        OSError
            The folder cannot be written.
        """
        atomic_write(Path(file), json.dumps(self.as_dict(), indent=2) + "\n")


@dataclass(frozen=True)
class Misclassified:
    """An image that a head gave another label.

    Attributes
    ----------
    path : str
        Path of the image at extraction.
    label, predicted : str
        Its label, and the one that the head gave it.
    confidence : float
        Probability of the given label; if images may have several classes, of the worst decision:
        the largest probability of a class that is wrong, or of the absence of one that is right.
    label_probability : float or None
        Probability of its own label; None if images may have several classes.
    """

    path: str
    label: str
    predicted: str
    confidence: float
    label_probability: float | None
