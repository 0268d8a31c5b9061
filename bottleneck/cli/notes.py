"""Notes on images, weights and training that several commands print."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottleneck.cli.output import note, progress_shown, wanted
from bottleneck.cli.summary import note_content, note_lost_classes, note_oddities

if TYPE_CHECKING:
    from bottleneck.images import ImageSet, RejectedImage
    from bottleneck.records import FeatureSource

__all__ = [
    "draw_epochs",
    "find_alike",
    "note_features",
    "note_image_set",
    "note_lost",
    "note_random",
    "note_rejected",
    "note_replaced",
    "note_summary",
]

_MOST = 20


def note_random(random: bool) -> None:
    """Note that the weights are random.

    Parameters
    ----------
    random : bool
        Whether the weights are random.
    """
    if random:
        note("note: the weights are random; the features are for testing only")


def note_replaced(replaced: bool) -> None:
    """Note that a head of the same name was replaced.

    Parameters
    ----------
    replaced : bool
        Whether a head was replaced.
    """
    if replaced:
        note("note: this replaced the head of the same name; use --name to keep both")


def note_rejected(rejected: "Sequence[RejectedImage]") -> None:
    """List rejected images.

    Parameters
    ----------
    rejected : sequence of RejectedImage
        The images, with the reasons.
    """
    if rejected:
        note(f"{len(rejected)} images could not be used:")
    for image in rejected:
        note(f"  {image.path}: {image.reason}")


def note_image_set(images: "ImageSet") -> None:
    """Report problems of an image set: files left out, leaks, conflicting labels.

    Parameters
    ----------
    images : ImageSet
        The image set.
    """
    from bottleneck.images import summarize

    note_oddities(summarize(images))


def note_summary(images: "ImageSet") -> None:
    """Print the classes and splits of an image set, unless results are JSON, and its problems.

    Parameters
    ----------
    images : ImageSet
        The image set.
    """
    from bottleneck.images import summarize

    summary = summarize(images)
    if not wanted("json"):
        note_content(summary)
    note_oddities(summary, first=True)


def note_lost(before: "ImageSet", after: "ImageSet") -> None:
    """Report classes that were lost because images could not be used.

    Parameters
    ----------
    before, after : ImageSet
        The image set as found, and without the images that could not be used.
    """
    from bottleneck.images import summarize

    note_lost_classes(summarize(before), summarize(after))


def note_features(
    images: "ImageSet", sources: "Sequence[FeatureSource]", splits: Sequence[str] = ("train", "val")
) -> None:
    """Report problems of features: of their images and weights, and images used in fine-tuning.

    Parameters
    ----------
    images : ImageSet
        The images of the features.
    sources : sequence of FeatureSource
        The sources of the features.
    splits : sequence of str
        The splits that scores are computed on.
    """
    from bottleneck.bases import seen_digests

    note_image_set(images)
    note_random(any(source.weights_random for source in sources))
    judged = [item for item in images.items if item.split in splits]
    for model in dict.fromkeys(source.model for source in sources):
        seen = seen_digests(model)
        known = sum(item.digest in seen for item in judged)
        if known:
            note(
                f"warning: {known} of the {len(judged)} {' and '.join(splits)} images were used "
                f"to train or validate {model!r}, so scores on them are too high"
            )


def find_alike(images: "ImageSet") -> dict[str, Any]:
    """Find and list near-duplicate images; return them in JSON types.

    Parameters
    ----------
    images : ImageSet
        Images with splits; their files are read.

    Returns
    -------
    dict
        ``near_duplicates``: the pairs, and the images that could not be compared.

    Raises
    ------
    MissingExtraError, DataError
        See `bottleneck.images.find_near_duplicates`.
    """
    from bottleneck.images import find_near_duplicates

    with progress_shown() as progress:
        found = find_near_duplicates(images, progress=progress)
    count = found.count
    note(f"{'warning: ' * bool(count)}near-duplicates in different splits: {count} pairs")
    for pair in found.pairs[:_MOST]:
        note(
            f"  {pair.first} ({pair.splits[0]}) ~ {pair.second} ({pair.splits[1]}), "
            f"{pair.distance} of 64 bits differ"
        )
    if count > _MOST:
        note(f"  and {count - _MOST} more; --json lists up to 1,000")
    if found.unread:
        first = found.unread[0]
        note(
            f"{len(found.unread)} images could not be compared, first {first.path}: {first.reason}"
        )
    return {"near_duplicates": asdict(found)}


def draw_epochs(
    history: Sequence[Mapping[str, float]], kept: int, name: str, picture: Path | None
) -> None:
    """Draw the history of a training, if a picture was requested.

    Parameters
    ----------
    history : sequence of mapping
        Metrics of each epoch; if empty, nothing is drawn.
    kept : int
        The epoch whose network was saved; 0 if it was none of these.
    name : str
        Title of the picture.
    picture : Path or None
        Path of the picture.

    Raises
    ------
    UsageError, MissingExtraError
        See `bottleneck.pictures.draw_history`.
    """
    from bottleneck.pictures import draw_history

    if picture and history:
        draw_history(history, kept, name, picture)
        note(f"epochs drawn to {picture}")
