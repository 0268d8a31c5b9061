"""Notes on images, weights and training that several commands print."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bottleneck
from bottleneck.cli.output import note, progress_shown

if TYPE_CHECKING:
    from bottleneck.images import ImageSet, RejectedImage
    from bottleneck.records import Extraction, FeatureSource
    from bottleneck.settings import ImageSettings

__all__ = [
    "draw_epochs",
    "find_alike",
    "note_decoded",
    "note_features",
    "note_image_set",
    "note_random",
    "note_rejected",
    "note_replaced",
    "opened",
]

_MOST = 20
_DARK = 4096
"""Images of 12 bits are often stored in 16."""
_BITS = 8


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
        told = re.sub(r"`(\w+)`", lambda found: f"--{found[1].replace('_', '-')}", image.reason)
        note(f"  {image.path}: {told}")


def opened(images: "ImageSettings") -> "ImageSet":
    """Read an image set.

    Parameters
    ----------
    images : ImageSettings
        Where it is.

    Returns
    -------
    ImageSet

    Raises
    ------
    PathMissingError, UsageError, DataError
        See `bottleneck.images.ImageSet.open`.
    """
    return bottleneck.ImageSet.open(
        images.data, name=images.image_set, seed=images.seed, max_bytes=images.max_bytes or 0
    )


def note_decoded(done: "Extraction") -> None:
    """Note what users should know of the images that were decoded.

    Parameters
    ----------
    done : Extraction
        The record of the extraction.
    """
    if pages := done.several_pages:
        note(
            f"note: {len(pages)} files have several pages or frames, of which only the first is "
            f"used (first file: {pages[0]})"
        )
    if done.deep_images and done.deep_maximum < _DARK:
        white = 2 ** max(done.deep_maximum.bit_length(), _BITS) - 1
        note(
            f"note: the {done.deep_images} images of 16 bits stay below {done.deep_maximum + 1:,} "
            f"of 65,535, and none states its range; if {white} is white, give --max-value {white}"
        )


def note_image_set(images: "ImageSet") -> None:
    """Report problems of an image set: files left out, leaks, conflicting labels.

    Parameters
    ----------
    images : ImageSet
        The image set.
    """
    empty = [path for path in images.ignored if path.endswith("/")]
    endings = [Path(path).suffix or "no ending" for path in images.ignored if path not in empty]
    if empty:
        listed = ", ".join(empty[:_MOST])
        note(f"warning: {len(empty)} class or split folders have no images: {listed}")
    if endings:
        listed = ", ".join(f"{count} {each}" for each, count in Counter(endings).most_common(5))
        note(
            f"note: {len(endings)} files were left out, as they are not images or have no "
            f"class: {listed}"
        )
    if images.leaks:
        note(f"warning: leak: {_example(images, images.leaks)} are in more than one split")
    if images.conflicts:
        note(f"warning: {_example(images, images.conflicts)} have more than one label")


def _example(images: "ImageSet", digests: Sequence[str]) -> str:
    paths = [item.path for item in images.items if item.digest == digests[0]]
    return f"{len(digests)} identical images (first: {' = '.join(paths)})"


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
