"""Divide images into train and test, by the bytes of images or the names of groups alone."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from bottleneck.errors import DataError, some_of
from bottleneck.images.groups import groups_of
from bottleneck.images.items import ImageItem
from bottleneck.labels import classes_of, rarest_classes
from bottleneck.names import natural_key, similar_names

__all__ = ["TEST_SHARE", "digests_by", "images_needed", "split_items"]

TEST_SHARE = 0.2
"""Share of each class that is held out, where the user gives no splits."""
_MOST_NAMED = 100


def split_items(
    items: Sequence[ImageItem], *, test_share: float = TEST_SHARE, seed: int = 0
) -> tuple[ImageItem, ...]:
    """Divide images into train and test, see `ImageSet.with_splits`.

    Parameters
    ----------
    items : sequence of ImageItem
        Images with digests and labels.
    test_share : float
        Share of each class that becomes test images.
    seed : int
        Seed of the ranks.

    Returns
    -------
    tuple of ImageItem
        In the same order, with splits.

    Raises
    ------
    DataError
        Classes have fewer than two distinct images, or all their images also have other labels.
    """
    group_of = groups_of(items)
    plain = {item.digest: item.sha256 or item.digest for item in items}
    labels = [item.label or "" for item in items]
    strata = digests_by(items, ((rarest,) for rarest in rarest_classes(labels)))
    sizes = {
        name: Counter(group_of.get(digest, digest) for digest in digests)
        for name, digests in strata.items()
    }
    if group_of:  # those that few groups have are the hardest to divide
        sizes = dict(sorted(sizes.items(), key=lambda each: len(each[1])))
    wanted = {
        name: max(len(own) > 1, round(test_share * own.total())) for name, own in sizes.items()
    }
    groups = {group for own in sizes.values() for group in own}
    ranks = {group: _rank(seed, plain.get(group, group)) for group in groups}
    division, seen = _Division(sizes, wanted), set[str]()
    for name, own in sizes.items():
        division.divide(name, sorted(own.keys() - seen, key=ranks.__getitem__))
        seen.update(own)
    split_of_digest = {
        digest: "test" if group_of.get(digest, digest) in division.test else "train"
        for digest in plain
    }
    classes = digests_by(items, map(classes_of, labels))
    _check_sizes(classes, group_of)
    _check_divided(items, classes, split_of_digest, group_of)
    return tuple(replace(item, split=split_of_digest[item.digest]) for item in items)


class _Division:
    """The groups to hold out: as many images of each stratum as wanted, or nearly so.

    Parameters
    ----------
    sizes : mapping of str to mapping
        The number of images of each group of each stratum.
    wanted : mapping of str to int
        The number to hold out of each stratum.
    """

    def __init__(self, sizes: Mapping[str, Mapping[str, int]], wanted: Mapping[str, int]) -> None:
        self._sizes, self._wanted = sizes, dict(wanted)
        self._parts: dict[str, dict[str, int]] = defaultdict(dict)
        for name, own in sizes.items():
            for group, size in own.items():
                self._parts[group][name] = size
        self.test: set[str] = set()

    def divide(self, name: str, ranked: Sequence[str]) -> None:
        """Hold out groups of a stratum, which are in no earlier one, in the order given.

        First those with no more images than wanted, then those that come closer to what is wanted.
        If there are none, it is the one that exceeds it least. Of images that stand alone, it is
        the first, as many as wanted.
        """
        for group in ranked:
            if self._parts[group][name] <= self._wanted[name] and self._excess(group) <= 0:
                self._take(group)
        for group in ranked:
            if group not in self.test and self._wanted[name] > 0 and self._excess(group) < 0:
                self._take(group)
        if self._wanted[name] > 0 and ranked and self.test.isdisjoint(self._sizes[name]):
            self._take(min(ranked, key=self._excess))

    def _excess(self, group: str) -> int:
        """Return by how much all strata would be farther from what is wanted with a group."""
        own = self._parts[group].items()
        return sum(abs(self._wanted[name] - size) - abs(self._wanted[name]) for name, size in own)

    def _take(self, group: str) -> None:
        self.test.add(group)
        for name, size in self._parts[group].items():
            self._wanted[name] -= size


def digests_by(items: Sequence[ImageItem], names: Iterable[Iterable[str]]) -> dict[str, set[str]]:
    """Return the digests of the images with each name.

    Parameters
    ----------
    items : sequence of ImageItem
        Images with digests.
    names : iterable of iterable of str
        The names of each image.

    Returns
    -------
    dict of str to set of str
        Sorted by name as text. The order decides the split of images with several labels: natural
        order would change it.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for item, own in zip(items, names, strict=True):
        for name in own:
            found[name].add(item.digest)
    return dict(sorted(found.items()))


def _rank(seed: int, digest: str) -> str:
    return hashlib.sha256(f"{seed} {digest}".encode()).hexdigest()


def _check_sizes(classes: Mapping[str, set[str]], group_of: Mapping[str, str]) -> None:
    groups = {name: {group_of.get(each, each) for each in own} for name, own in classes.items()}
    small = sorted((each for each, own in groups.items() if len(own) == 1), key=natural_key)
    if small:
        names = some_of(map(repr, small), most=_MOST_NAMED)
        if group_of:
            have = f"class {names} is" if len(small) == 1 else f"{len(small)} classes ({names}) are"
            raise DataError(
                f"{have} in 1 group only; at least 2 are needed, one to train on and one to hold "
                f"out: add groups, leave such classes out, or give each image's split"
            )
        have = f"class {names} has" if len(small) == 1 else f"{len(small)} classes ({names}) have"
        alike = [each for each in similar_names(classes) if {*small} & {*each}]
        same = f", use one name for {' and '.join(map(repr, alike[0]))}" if alike else ""
        raise DataError(
            f"{have} 1 usable image; at least 2 different ones are needed, one to train on and "
            f"one to hold out: add images{same}, or leave out small classes with `min_images=2`"
        )


def _check_divided(
    items: Sequence[ImageItem],
    classes: Mapping[str, set[str]],
    split_of_digest: Mapping[str, str],
    group_of: Mapping[str, str],
) -> None:
    whole = [
        each
        for each, digests in classes.items()
        if len({split_of_digest[digest] for digest in digests}) == 1
    ]
    if not whole:
        return
    names = some_of(map(repr, sorted(whole, key=natural_key)), most=_MOST_NAMED)
    several = f"{len(whole)} classes ({names})" if len(whole) > 1 else f"class {names}"
    if group_of:
        raise DataError(
            f"{several} cannot be split, because all groups with "
            f"{'them' if len(whole) > 1 else 'it'} would be on one side, as they have other "
            f"classes, too; add groups, or give each image's split"
        )
    own = [item for item in items if item.digest in classes[whole[0]]]
    pairs = [
        (one, other)
        for one in own
        for other in own[:_MOST_NAMED]
        if one.digest == other.digest and one.label != other.label
    ]
    alike = [f"{each.path} is {each.label!r}" for pair in pairs[:1] for each in pair]
    example = f" ({' and '.join(alike)})" if alike else ""
    raise DataError(
        f"{several} cannot be split, because {'their' if len(whole) > 1 else 'its'} images also "
        f"have other labels{example}; correct the labels or add images, or give each image's split"
    )


def images_needed(training: int) -> int:
    """Return how many images of a class give this many to train on, where the set is split here.

    Parameters
    ----------
    training : int
        Number of training images.

    Returns
    -------
    int
    """
    count = training + 1
    while count - max(1, round(TEST_SHARE * count)) < training:
        count += 1
    return count
