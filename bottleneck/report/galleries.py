"""Galleries: identical images, labels that are probably wrong, outliers, look-alikes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bottleneck.errors import BottleneckError, as_options, counted
from bottleneck.features import Features
from bottleneck.heads import Head
from bottleneck.images import ImageItem, Summary
from bottleneck.settings import SuspectSettings
from bottleneck.similar import Progress, silent
from bottleneck.suspects import (
    LookAlikes,
    Suspect,
    Suspects,
    find_look_alikes,
    find_outliers,
    find_suspects,
    tell_apart,
)

__all__ = ["Card", "Gallery", "identical", "suspected"]

_MOST_COMPARED = 5000
"""Images whose labels and features are compared unless it is asked for; of more, it takes long."""
_MOST_SHOWN, _MOST_OF_GROUP = 120, 6
_MOST_GROUPS = 40
"""Groups of a gallery on the page."""
_SLOW = ("mlp", "knn")
"""Classifiers of heads in whose place a linear one judges the labels."""
_SUSPECTS = (
    "Labels that are probably wrong, as heads that have not seen the image and cleanlab judge. "
    "'bottleneck suspects' lists all, and corrects those that you confirm."
)
_OUTLIERS = "Images whose features are far from those of all others."
_ALIKE = (
    "Images of a group have almost the same features, with a cosine of at least {least:g} to "
    "another one of the group, but are not identical."
)

_IDENTICAL = {
    "duplicates": ("Duplicates", "have the same bytes. They are computed once and stay together."),
    "conflicts": ("Conflicting labels", "have the same bytes, but different labels."),
    "leaks": ("Leaks", "have the same bytes, but are in different splits, so they are not scored."),
}


@dataclass(frozen=True)
class Card:
    """An image with a caption.

    Attributes
    ----------
    item : ImageItem
        The image; its digest names the thumbnail.
    facts : mapping of str to str
        Lines of the caption below its path: name to value.
    """

    item: ImageItem
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Gallery:
    """Groups of images under a title, such as identical ones.

    Attributes
    ----------
    name, title, sentence : str
        Its anchor in the page, its title, and what its images have in common.
    groups : sequence of sequence of Card
        The first groups; images that stand alone are groups of one.
    count : int
        Number of all groups.
    """

    name: str
    title: str
    sentence: str
    groups: Sequence[Sequence[Card]]
    count: int


def identical(summary: Summary, items: Iterable[ImageItem]) -> Iterator[Gallery]:
    """Yield galleries of identical images, as far as there are any.

    Parameters
    ----------
    summary : Summary
        The content of the image set.
    items : iterable of ImageItem
        Its images.

    Yields
    ------
    Gallery
    """
    known = {item.path: item for item in items}
    found = {
        "duplicates": (summary.duplicates, summary.duplicated),
        "conflicts": (summary.conflicts, summary.conflicting),
        "leaks": (summary.leaks, summary.leaking),
    }
    for name, (groups, count) in found.items():
        title, sentence = _IDENTICAL[name]
        if groups:
            cards = [_cards([known[path] for path in each.paths]) for each in groups[:_MOST_GROUPS]]
            yield Gallery(name, title, f"Images of a group {sentence}", cards, count)


def suspected(
    features: Features,
    head: Head | None,
    notes: list[str],
    *,
    asked: bool | None = None,
    progress: Progress = silent,
) -> Iterator[Gallery]:
    """Yield galleries of suspects, outliers and look-alikes, as far as there are any.

    Parameters
    ----------
    features : Features
        Rows of all images.
    head : Head or None
        The head whose classifier judges labels.
    notes : list of str
        Gets a sentence about what was not looked for.
    asked : bool or None
        Whether to look for them; None looks among up to 5,000 images, and for wrong labels if
        cleanlab is installed.
    progress : callable, optional
        As for `bottleneck.find_suspects`.

    Yields
    ------
    Gallery
    """
    plain = features.take(features.views == 0)
    if asked is False:
        return
    if asked is None and len(plain) > _MOST_COMPARED:
        notes.append(
            f"wrong labels, outliers and look-alikes were not looked for, which takes long among "
            f"{counted(len(plain), 'image')}; 'bottleneck report --suspects' does"
        )
        return
    known = {item.path: item for item in features.images.items}
    found = _suspects(plain, head, notes, progress) if plain.y is not None else None
    if found:
        yield from _wrong(found.labels, known)
    outliers = found.outliers if found else find_outliers(plain, progress)
    if far := [
        [Card(known[each.path], _facts({"class": each.label, "distance": f"{each.distance:.3f}"}))]
        for each in outliers
    ]:
        yield Gallery("outliers", "Outliers", _OUTLIERS, far[:_MOST_SHOWN], len(far))
    near = SuspectSettings().near
    alike = found.look_alikes if found else find_look_alikes(plain, near, progress)
    yield from _alike(alike, len(plain), known, notes)


def _suspects(
    plain: Features, head: Head | None, notes: list[str], progress: Progress
) -> Suspects | None:
    """Return what is suspect; None, and a note, if labels cannot be judged."""
    clf = head.clf if head and head.clf not in _SLOW else None
    try:
        return find_suspects(plain, clf=clf, progress=progress)
    except BottleneckError as error:
        notes.append(f"wrong labels were not looked for: {as_options(error)}")
    return None


def _wrong(labels: Sequence[Suspect], known: Mapping[str, ImageItem]) -> Iterator[Gallery]:
    groups = [
        [
            Card(
                known[each.path],
                {
                    "class": each.label,
                    "suggested": each.suggested,
                    "quality": f"{each.score:.3f}",
                    "split": each.split,
                },
            )
        ]
        for each in labels
    ]
    if groups:
        yield Gallery("suspects", "Suspects", _SUSPECTS, groups[:_MOST_SHOWN], len(groups))


def _alike(
    groups: Sequence[LookAlikes], images: int, known: Mapping[str, ImageItem], notes: list[str]
) -> Iterator[Gallery]:
    """Yield look-alikes, but for groups of so many that the features hardly tell images apart."""
    small, note = tell_apart(groups, images)
    notes += [note] if note else []
    if small:
        cards = [_cards([known[path] for path in each.paths]) for each in small[:_MOST_GROUPS]]
        sentence = _ALIKE.format(least=SuspectSettings().near)
        yield Gallery("look-alikes", "Look-alikes", sentence, cards, len(small))


def _facts(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: each for name, each in values.items() if each}


def _cards(group: Sequence[ImageItem]) -> list[Card]:
    """Return a group of images with their classes and splits; of a large one, the first."""
    some = group[:_MOST_OF_GROUP]
    cards = [Card(item, _facts({"class": item.label, "split": item.split})) for item in some]
    if len(group) > _MOST_OF_GROUP:
        more = {**cards[-1].facts, "and": f"{len(group) - _MOST_OF_GROUP} more"}
        cards[-1] = Card(cards[-1].item, more)
    return cards
