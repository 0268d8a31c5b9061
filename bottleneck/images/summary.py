"""The summary of an image set: its classes and splits, and everything odd about it."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bottleneck.images.items import SPLITS, ImageItem
from bottleneck.images.kinds import IMAGE_SUFFIXES
from bottleneck.images.sets import ImageSet
from bottleneck.images.walking import is_junk
from bottleneck.labels import classes_in, classes_of
from bottleneck.names import natural_key, similar_names
from bottleneck.records import RejectedImage

__all__ = ["ClassSize", "CutGroup", "Groups", "Identical", "LeftOut", "Summary", "summarize"]

_MOST = 1000


@dataclass(frozen=True)
class ClassSize:
    """The size of a class.

    Attributes
    ----------
    label : str
        The class.
    images : int
        Number of its images; of different ones, if it was left out as too small.
    splits : dict of str to int
        Number of its images in each split that has images of any class.
    """

    label: str
    images: int
    splits: dict[str, int]


@dataclass(frozen=True)
class Identical:
    """Files with the same bytes.

    Attributes
    ----------
    paths : list of str
        Two or more paths.
    labels, splits : list of str or None
        Label and split of each.
    """

    paths: list[str]
    labels: list[str | None]
    splits: list[str | None]


@dataclass(frozen=True)
class CutGroup:
    """A group with images in several splits.

    Attributes
    ----------
    group : str
        Its name.
    splits : dict of str to int
        Number of its images in each split that has any.
    """

    group: str
    splits: dict[str, int]


@dataclass(frozen=True)
class Groups:
    """The groups of an image set.

    Attributes
    ----------
    groups : int
        Number of groups; those with identical images are one.
    largest, largest_images : str, int
        The group with the most images, and their number.
    alone : int
        Number of images without a group, each of which stands alone.
    splits : dict of str to int
        Number of groups with images in each split that has any.
    parted : int
        Number of groups with images in several splits.
    cuts : list of CutGroup
        These groups, at most 1,000.
    """

    groups: int
    largest: str
    largest_images: int
    alone: int
    splits: dict[str, int]
    parted: int
    cuts: list[CutGroup]


@dataclass(frozen=True)
class LeftOut:
    """Files that were left out for one reason.

    Attributes
    ----------
    reason : str
        Such as ``hidden``, or the files' ending.
    count : int
        Number of files.
    first : str
        Path of the first.
    """

    reason: str
    count: int
    first: str


@dataclass(frozen=True)
class Summary:
    """The content of an image set; lists have at most 1,000 entries.

    Attributes
    ----------
    image_set : str
        Name of the set.
    images, different : int
        Number of images, and of different ones.
    classes : list of ClassSize
        In natural order.
    splits : dict of str to int
        Number of images of each split that has any.
    copies : int
        Number of images that are identical to an earlier one.
    duplicates, conflicts, leaks : list of Identical
        Identical images: all, those with several labels, and those in several splits.
    duplicated, conflicting, leaking : int
        Number of all `duplicates`, `conflicts` and `leaks`.
    groups : Groups or None
        None if no image has a group.
    left_out : list of LeftOut
        Files that are not images of the set, by reason; most frequent first.
    passed_over : list of str
        Folders that were not looked into: hidden ones and those of other programs.
    empty : list of str
        Class and split folders without images.
    small_classes : list of ClassSize
        Classes left out for their number of images, without splits.
    lost_classes : list of str
        Classes without an image that can be used.
    rare_classes : list of str
        Classes with only one different training image, too few to choose hyperparameters on.
    not_trained : dict of str to list of str
        Classes that are in a split but not among the training images, by split.
    not_held_out : dict of str to list of str
        Classes of training images that are not in a split which has images, by split.
    similar_classes : list of list of str
        Classes whose names may mean the same.
    rejected : list of RejectedImage
        Images that cannot be used and links that are not followed.
    notes : list of str
        How the folder or table was read.
    """

    image_set: str
    images: int
    different: int
    classes: list[ClassSize]
    splits: dict[str, int]
    copies: int
    duplicated: int
    duplicates: list[Identical]
    conflicting: int
    conflicts: list[Identical]
    leaking: int
    leaks: list[Identical]
    groups: Groups | None
    left_out: list[LeftOut]
    passed_over: list[str]
    empty: list[str]
    small_classes: list[ClassSize]
    lost_classes: list[str]
    rare_classes: list[str]
    not_trained: dict[str, list[str]]
    not_held_out: dict[str, list[str]]
    similar_classes: list[list[str]]
    rejected: list[RejectedImage]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the summary in JSON types.

        Returns
        -------
        dict of str to Any
        """
        return asdict(self)


def summarize(images: ImageSet) -> Summary:
    """Summarize an image set.

    Parameters
    ----------
    images : ImageSet
        The image set.

    Returns
    -------
    Summary
    """
    identical: dict[str, list[ImageItem]] = defaultdict(list)
    for item in images.items:
        identical[item.digest].append(item)
    copies = [found for found in identical.values() if len(found) > 1]
    conflicts = [found for found in copies if len({each.label for each in found} - {None}) > 1]
    leaks = [found for found in copies if len({each.split for each in found}) > 1]
    splits = Counter(item.split for item in images.items if item.split)
    not_trained, not_held_out = _apart(images)
    folders = [path for path in images.ignored if path.endswith("/")]
    return Summary(
        image_set=images.name,
        images=len(images.items),
        different=len(identical),
        classes=_counted(images),
        splits={split: splits[split] for split in SPLITS if splits[split]},
        copies=len(images.items) - len(identical),
        duplicated=len(copies),
        duplicates=_identical(copies),
        conflicting=len(conflicts),
        conflicts=_identical(conflicts),
        leaking=len(leaks),
        leaks=_identical(leaks),
        groups=_groups(images),
        left_out=_left_out([path for path in images.ignored if not path.endswith("/")]),
        passed_over=[path for path in folders if is_junk(Path(path))],
        empty=[path for path in folders if not is_junk(Path(path))],
        small_classes=[ClassSize(label, count, {}) for label, count in images.small],
        lost_classes=list(images.lost),
        rare_classes=_rare(images),
        not_trained=not_trained,
        not_held_out=not_held_out,
        similar_classes=[list(names) for names in similar_names(images.classes)],
        rejected=list(images.rejected),
        notes=list(images.notes),
    )


def _groups(images: ImageSet) -> Groups | None:
    if not images.group_of:
        return None
    members: dict[str, Counter[str | None]] = defaultdict(Counter)
    for item in images.items:
        if group := images.group_of.get(item.digest):
            members[group][item.split] += 1
    largest = max(members, key=lambda group: members[group].total())
    shares = {
        group: {split: own[split] for split in SPLITS if own[split]}
        for group, own in members.items()
    }
    counts = Counter(split for own in shares.values() for split in own)
    cuts = [CutGroup(group, own) for group, own in shares.items() if len(own) > 1]
    return Groups(
        groups=len(members),
        largest=largest,
        largest_images=members[largest].total(),
        alone=sum(item.digest not in images.group_of for item in images.items),
        splits={split: counts[split] for split in SPLITS if counts[split]},
        parted=len(cuts),
        cuts=cuts[:_MOST],
    )


def _counted(images: ImageSet) -> list[ClassSize]:
    counts = {label: Counter[str | None]() for label in images.classes}
    for item in images.items:
        for label in () if item.label is None else classes_of(item.label):
            counts[label][item.split] += 1
    there = [split for split in SPLITS if any(own[split] for own in counts.values())]
    return [
        ClassSize(label, own.total(), {split: own[split] for split in there})
        for label, own in counts.items()
    ]


def _rare(images: ImageSet) -> list[str]:
    trained = {
        (label, item.digest)
        for item in images.items
        if item.split == "train" and item.label is not None
        for label in classes_of(item.label)
    }
    counts = Counter(label for label, _ in trained)
    return sorted((each for each, count in counts.items() if count == 1), key=natural_key)


def _identical(groups: Sequence[Sequence[ImageItem]]) -> list[Identical]:
    return [
        Identical(
            [item.path for item in found],
            [item.label for item in found],
            [item.split for item in found],
        )
        for found in groups[:_MOST]
    ]


def _left_out(paths: Sequence[str]) -> list[LeftOut]:
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        found[_reason(Path(path))].append(path)
    listed = [LeftOut(reason, len(own), own[0]) for reason, own in found.items()]
    return sorted(listed, key=lambda each: (-each.count, each.reason))


def _reason(path: Path) -> str:
    if is_junk(path):
        return "hidden"
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return "images outside of class folders"
    ending = path.suffix.lower()
    return "a number as ending" if ending[1:].isdigit() else ending or "no ending"


def _apart(images: ImageSet) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the classes of other splits that no training image has, and those they lack."""
    own = {
        split: classes_in(item.label for item in images.items if item.split == split)
        for split in SPLITS
    }
    trained = own.pop("train")
    others = {split: labels for split, labels in own.items() if labels and trained}
    found: list[dict[str, list[str]]] = [
        {split: sorted(labels - trained, key=natural_key) for split, labels in others.items()},
        {split: sorted(trained - labels, key=natural_key) for split, labels in others.items()},
    ]
    strange, lacking = ({key: each for key, each in own.items() if each} for own in found)
    return strange, lacking
