"""What a head tells of an image."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """The prediction of a head for one image.

    Attributes
    ----------
    path : str
        The image file; or another name of the image, see `bottleneck.Predictor`.
    label : str or None
        The class with the highest probability; or several classes, separated by semicolons. None if
        `novelty` is above the given percentage.
    scores, probabilities : dict of str to float
        By class: means over the unaugmented image and its views, if there are any. An exported
        file tells no scores.
    true_label : str or None
        The label that the image was given with, if any.
    novelty : float or None
        How many per cent of held-out images are nearer to the training images, see
        `bottleneck.heads.novelty.Novelty`. None if the head does not know.
    """

    path: str
    label: str | None
    scores: dict[str, float]
    probabilities: dict[str, float]
    true_label: str | None = None
    novelty: float | None = None

    def likeliest(self, count: int | None = None) -> dict[str, float]:
        """Return the classes with the highest probabilities, highest first.

        Parameters
        ----------
        count : int, optional
            Number of classes; by default all.

        Returns
        -------
        dict of str to float
        """
        ranked = sorted(self.probabilities.items(), key=lambda each: -each[1])
        return dict(ranked[:count])
