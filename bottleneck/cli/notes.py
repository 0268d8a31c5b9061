"""Notes on images, weights and training that several commands print."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottleneck.cli.output import note, progress_shown, wanted
from bottleneck.cli.summary import note_content, note_lost_classes, note_oddities

if TYPE_CHECKING:
    from bottleneck.cache import Cache
    from bottleneck.features import Features
    from bottleneck.heads import Head
    from bottleneck.images import ImageSet, RejectedImage
    from bottleneck.records import Extraction, FeatureSource

__all__ = [
    "draw_epochs",
    "find_alike",
    "note_decoded",
    "note_features",
    "note_image_set",
    "note_lost",
    "note_random",
    "note_rejected",
    "note_replaced",
    "note_replaced_set",
    "note_summary",
    "note_unlabelled",
    "note_unseen",
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


def note_unlabelled(images: "ImageSet", source: Path) -> None:
    """Note that images have no labels, before anything is computed for them.

    Parameters
    ----------
    images : ImageSet
        The images.
    source : Path
        Their folder or table.
    """
    if not images.labelled:
        note(
            f"note: {source} has no class folders, so the images have no labels and no head can be "
            f"fitted on them; 'bottleneck extract' takes {source}/CLASS/IMAGE, or a CSV file with "
            f"path,label"
        )


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


def note_replaced_set(images: "ImageSet", cache: "Cache") -> None:
    """Warn that an image set is about to replace another one of its name, or that images are gone.

    Parameters
    ----------
    images : ImageSet
        The new image set.
    cache : Cache
        The cache, with the old one.
    """
    from bottleneck.images import replacement_of

    found = replacement_of(cache.set_file(images.name), images)
    if found and found.is_other:
        old, new = found.folders
        places = f" of {old!r} by that of {new!r}" if old != new else ""
        note(
            f"warning: this replaces image set {images.name!r}{places}: {found.gone} of its "
            f"{found.before} images are not in the new one; give --set NAME to keep both"
        )
    elif found and found.gone:
        note(
            f"note: {found.gone} of the {found.before} images that {images.name!r} had at its last "
            f"extraction are gone"
        )


def note_unseen(features: "Features", head: "Head", cache: "Cache", split: str) -> None:
    """Note that only images are scored that a head has not seen, as its image set has changed.

    Parameters
    ----------
    features : Features
        The features that the head is evaluated on.
    head : Head
        The head.
    cache : Cache
        The cache of the features.
    split : str
        The split that it is evaluated on.
    """
    from bottleneck.features import has_changed, seen_by_network

    if head.source and has_changed(head.source, features.images):
        own = [item.digest for item in features.images.items if item.split == split]
        network = seen_by_network(head.source, cache) if split == "test" else None
        total = len(own)
        if (
            left_out := total
            - len(features.split(split))
            - sum(each in (network or ()) for each in own)
        ):
            note(
                f"note: the images of {features.images.name!r} have changed since the head was "
                f"fitted; {left_out} of the {total} {split} images were left out, as the head was "
                f"fitted or selected on them"
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


def note_image_set(images: "ImageSet", *, evaluated: bool = False) -> None:
    """Report problems of an image set: files left out, leaks, conflicting labels.

    Parameters
    ----------
    images : ImageSet
        The image set.
    evaluated : bool
        Whether an evaluation tells the classes that the head does not know.
    """
    from bottleneck.images import summarize

    note_oddities(summarize(images), evaluated=evaluated)


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
    images: "ImageSet",
    sources: "Sequence[FeatureSource]",
    cache: "Cache",
    splits: Sequence[str] = ("train", "val"),
    *,
    evaluated: bool = False,
) -> None:
    """Report problems of features: of their images and weights, and images used in fine-tuning.

    Parameters
    ----------
    images : ImageSet
        The images of the features.
    sources : sequence of FeatureSource
        The sources of the features.
    cache : Cache
        The cache of the features.
    splits : sequence of str
        The splits that scores are computed on.
    evaluated : bool
        As for `note_image_set`.
    """
    from bottleneck.bases import digests_of_network, is_finetuned
    from bottleneck.features import seen_by_network

    note_image_set(images, evaluated=evaluated)
    note_random(any(source.weights_random for source in sources))
    judged = [item for item in images.items if item.split in splits]
    told = " and ".join(splits)
    for model, source in {source.model: source for source in sources}.items():
        recorded = seen_by_network(source, cache)
        if recorded is None and not is_finetuned(model):
            note(
                f"warning: the fine-tuned model {model!r} is not there and its features are of an "
                f"earlier version, so that {told} images may be those that it was trained on, and "
                f"scores on them too high; run 'bottleneck extract --model' with its folder"
            )
            continue
        seen = digests_of_network(model) if recorded is None else recorded
        if not (known := sum(item.digest in seen for item in judged)):
            continue
        if recorded and evaluated and told == "test":
            note(
                f"note: {known} of the {len(judged)} test images were left out, as they were used "
                f"to train or validate {model!r}"
            )
        else:
            note(
                f"warning: {known} of the {len(judged)} {told} images were used to train or "
                f"validate {model!r}, so scores on them are too high"
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
