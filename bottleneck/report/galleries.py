"""Galleries: identical images, labels that are probably wrong, outliers, near-duplicates."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import groupby
from typing import Any

from bottleneck.errors import BottleneckError, counted
from bottleneck.features import Features
from bottleneck.heads import Head
from bottleneck.images import ImageItem, Summary
from bottleneck.settings import SuspectSettings
from bottleneck.similar import near_duplicate_groups
from bottleneck.suspects import Suspects, find_suspects

__all__ = ["Card", "Gallery", "identical", "suspected"]

_MOST_COMPARED = 5000
"""Images whose labels and features are compared unless it is asked for; of more, it takes long."""
_MOST_SHOWN, _MOST_OF_GROUP = 120, 6
_MOST_GROUPS = 40
"""Groups of a gallery on the page."""
_MOST_ALIKE, _ALIKE_SHARE = 20, 0.1
"""A group of more images, and of a larger share of all, is that of a layer that hardly differs."""
_SLOW = ("mlp", "knn")
"""Classifiers of heads in whose place a linear one judges the labels."""
_SUSPECTS = (
    "Labels that are probably wrong, as heads that have not seen the image and cleanlab judge. "
    "'bottleneck suspects' lists all, and corrects those that you confirm."
)
_OUTLIERS = "Images whose features are far from those of all others."
_NEAR = (
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
    features: Features, head: Head | None, notes: list[str], *, asked: bool | None = None
) -> Iterator[Gallery]:
    """Yield galleries of suspects, outliers and near-duplicates, as far as there are any.

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

    Yields
    ------
    Gallery
    """
    plain = features.take(features.views == 0)
    if asked is False:
        return
    if asked is None and len(plain) > _MOST_COMPARED:
        notes.append(
            f"wrong labels and near-duplicates were not looked for, which takes long among "
            f"{counted(len(plain), 'image')}; 'bottleneck report --suspects' does"
        )
        return
    known = {item.path: item for item in features.images.items}
    if plain.y is not None and (asked or find_spec("cleanlab")):
        try:
            found = find_suspects(plain, SuspectSettings(clf=_judge(plain, head)))
        except BottleneckError as error:
            notes.append(f"wrong labels were not looked for: {error}".replace("`", ""))
        else:
            yield from _judged(found, known)
    elif plain.y is not None:
        notes.append(
            "wrong labels were not looked for: that needs cleanlab; 'pip install cleanlab'"
        )
    yield from _alike(plain, known, notes)


def _judge(features: Features, head: Head | None) -> Any:
    """Return the classifier that judges labels: the head's, if it is fast."""
    if head and head.clf not in _SLOW and (head.multilabel or not features.images.multilabel):
        return head.clf
    return "logreg" if features.images.multilabel else "softmax"


def _judged(found: Suspects, known: Mapping[str, ImageItem]) -> Iterator[Gallery]:
    wrong = [
        Card(
            known[each.path],
            {
                "class": each.label,
                "suggested": each.suggested,
                "quality": f"{each.score:.3f}",
                "split": each.split,
            },
        )
        for each in found.labels[:_MOST_SHOWN]
    ]
    far = [
        Card(known[each.path], {"class": each.label, "distance": f"{each.distance:.3f}"})
        for each in found.outliers[:_MOST_SHOWN]
    ]
    if wrong:
        groups = [[each] for each in wrong]
        yield Gallery("suspects", "Suspects", _SUSPECTS, groups, len(found.labels))
    if far:
        yield Gallery("outliers", "Outliers", _OUTLIERS, [[e] for e in far], len(found.outliers))


def _alike(plain: Features, known: Mapping[str, ImageItem], notes: list[str]) -> Iterator[Gallery]:
    """Yield near-duplicates: groups of different images; of identical ones, one is shown."""
    least = SuspectSettings().near
    found = []
    for rows in near_duplicate_groups(plain.X, least):
        items = sorted((known[path] for path in plain.paths[rows]), key=lambda each: each.digest)
        first = [next(own) for _, own in groupby(items, lambda each: each.digest)]
        if len(first) > max(_MOST_ALIKE, _ALIKE_SHARE * len(plain)):
            notes.append(
                f"no near-duplicates are shown of {counted(len(first), 'image')}, whose features "
                f"are all as close as those of near-duplicates; a later layer tells images apart "
                f"better"
            )
        elif len(first) > 1:
            found.append(first)
    found.sort(key=lambda group: -len({(each.label, each.split) for each in group}))
    if found:
        groups = [_cards(each) for each in found[:_MOST_GROUPS]]
        sentence = _NEAR.format(least=least)
        yield Gallery("near-duplicates", "Near-duplicates", sentence, groups, len(found))


def _cards(group: Sequence[ImageItem]) -> list[Card]:
    """Return a group of images with their classes and splits; of a large one, the first."""
    cards = []
    for item in group[:_MOST_OF_GROUP]:
        facts = {"class": item.label, "split": item.split}
        cards.append(Card(item, {name: each for name, each in facts.items() if each}))
    if len(group) > _MOST_OF_GROUP:
        more = {**cards[-1].facts, "and": f"{len(group) - _MOST_OF_GROUP} more"}
        cards[-1] = Card(cards[-1].item, more)
    return cards
