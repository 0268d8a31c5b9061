"""What images must have, so that heads can be fitted on them, and which heads are tried."""

from pathlib import Path

from bottleneck.errors import DataError, UsageError, counted, some_of
from bottleneck.images import ImageSet, summarize
from bottleneck.settings.values import Classifier

__all__ = ["check_images", "classifiers_for"]

_CLASSIFIERS: tuple[Classifier, ...] = ("softmax", "svm", "lda")
_OF_SEVERAL_CLASSES: tuple[Classifier, ...] = ("logreg", "svm", "ridge")


def check_images(images: ImageSet, data: str | Path) -> None:
    """Check, before anything is computed, that a head can be fitted on images and evaluated.

    Parameters
    ----------
    images : ImageSet
        The images, split.
    data : str or Path
        Their folder or table, for errors.

    Raises
    ------
    UsageError
        They have no labels.
    DataError
        No image can be used, there are no test images, or a class has a single image to fit on.
    """
    if not images.items:
        first = images.rejected[0]
        raise DataError(
            f"none of the images of {str(data)!r} can be used, first {first.path!r} "
            f"({first.reason}); check the files"
        )
    if not images.labelled:
        raise UsageError(
            f"the images of {str(data)!r} have no classes, so that no head can be fitted on them; "
            f"give a folder with a folder for each class, or a table with the columns path,label"
        )
    summary = summarize(images)
    if lacking := [each for each in ("train", "test") if each not in summary.splits]:
        raise DataError(
            f"{str(data)!r} has no images in the split {lacking[0]!r}, but a head is fitted on "
            f"train images and evaluated on test images; add some, or give the images without "
            f"splits, and a fifth of each class is held out for testing"
        )
    if rare := summary.rare_classes:
        raise DataError(
            f"{counted(len(rare), 'class has', 'classes have')} a single training image, but at "
            f"least 2 are needed: {some_of(rare)}; add images, or give `min_images` to leave out "
            f"small classes"
        )


def classifiers_for(images: ImageSet) -> tuple[Classifier, ...]:
    """Return the classifiers to try if none is named: the last is fitted the fastest.

    Parameters
    ----------
    images : ImageSet
        The images.

    Returns
    -------
    tuple of str
    """
    return _OF_SEVERAL_CLASSES if images.multilabel else _CLASSIFIERS
