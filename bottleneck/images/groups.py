"""Groups: images of one patient, camera, burst or document, which no split and no fold parts."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from bottleneck.errors import UsageError, counted
from bottleneck.images.items import Found, ImageItem, same_images

__all__ = ["group_mates", "grouped", "groups_of", "in_several", "leaks_of"]


def grouped(found: Found, pattern: str | None, root: Path) -> Found:
    """Return images with the groups that their paths name.

    Parameters
    ----------
    found : Found
        The images.
    pattern : str or None
        A regular expression, searched in paths relative to `root`. The group is what its first
        capturing group matches, or the whole match if it has none. None leaves the images as they
        are.
    root : Path
        The folder of the images, or of their table.

    Returns
    -------
    Found

    Raises
    ------
    UsageError
        It does not match each path, or the table has groups, too.
    """
    if pattern is None:
        return found
    items = found.items
    if any(item.group for item in items):
        raise UsageError("the table has a column group already; leave `group_by` out")
    search = re.compile(pattern).search
    paths = [_relative(item.path, root) for item in items]
    matches = [search(path) for path in paths]
    names = [match and (match[1] if match.re.groups else match[0]) for match in matches]
    missed = [path for path, name in zip(paths, names, strict=True) if not name]
    if missed:
        raise UsageError(
            f"`group_by` {pattern!r} finds no group in {len(missed)} of "
            f"{counted(len(paths), 'path')}, first {missed[0]!r}; expected a column of a "
            f"table, or a regular expression that matches every path, relative to {str(root)!r}"
        )
    pairs = zip(items, names, strict=True)
    return replace(found, items=[replace(item, group=name) for item, name in pairs])


def _relative(path: str, root: Path) -> str:
    """Return a path relative to a folder; unchanged if it is not in the folder."""
    within = Path(path)
    return within.relative_to(root).as_posix() if within.is_relative_to(root) else path


def groups_of(items: Iterable[ImageItem]) -> dict[str, str]:
    """Return the group of each image that has one, by digest.

    Identical images are in one group. If they are given several groups, these become one, with the
    first of their names, as they could not be parted without parting the images.

    Parameters
    ----------
    items : iterable of ImageItem
        Images with digests.

    Returns
    -------
    dict of str to str
        Without images that stand alone; empty if no image has a group.
    """
    own: dict[str, set[str]] = {}
    for item in items:
        if item.group is not None:
            own.setdefault(item.digest, set()).add(item.group)
    first = {name: name for names in own.values() for name in names}

    def leader(name: str) -> str:
        while first[name] != name:
            name = first[name]
        return name

    for names in own.values():
        for pair in pairwise(names):
            low, high = sorted(map(leader, pair))
            first[high] = low
    return {digest: leader(next(iter(names))) for digest, names in own.items()}


def in_several(items: Iterable[ImageItem], group_of: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the splits of all groups that are in several, an image alone being its own group.

    Parameters
    ----------
    items : iterable of ImageItem
        Images with splits.
    group_of : mapping of str to str
        The result of `groups_of`.

    Returns
    -------
    dict of str to set of str
        Splits by the name of the group, or by the digest of an image that stands alone.
    """
    splits: dict[str, set[str]] = {}
    for item in items:
        if item.split is not None:
            splits.setdefault(group_of.get(item.digest, item.digest), set()).add(item.split)
    return {group: own for group, own in splits.items() if len(own) > 1}


def leaks_of(items: Collection[ImageItem], group_of: Mapping[str, str]) -> set[str]:
    """Return the images that are in several splits, or whose group is.

    Parameters
    ----------
    items, group_of : collection of ImageItem, mapping of str to str
        As for `in_several`.

    Returns
    -------
    set of str
        Digests of these images.
    """
    parted = in_several(items, group_of)
    return {item.digest for item in items if group_of.get(item.digest, item.digest) in parted}


def group_mates(
    items: Iterable[ImageItem], group_of: Mapping[str, str], known: Collection[str]
) -> set[str]:
    """Return the images that are known, or in a group with an image that is.

    Parameters
    ----------
    items : iterable of ImageItem
        Images with digests.
    group_of : mapping of str to str
        The result of `groups_of`.
    known : collection of str
        Digests of images, of any version.

    Returns
    -------
    set of str
        Digests of these images.
    """
    digests = {item.digest for item in items}
    own = same_images(digests, known)
    groups = {group_of.get(digest, digest) for digest in own}
    return {each for each in digests if group_of.get(each, each) in groups}
