"""Slices of a pass for workers in other processes: what these are told and answer, as JSON."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from bottleneck import errors
from bottleneck.errors import BadImageError, BottleneckError, ClusterError
from bottleneck.extract.compute import Remarks
from bottleneck.extract.outcomes import Part
from bottleneck.images import ImageItem, in_threads, read_file, readers_for
from bottleneck.sources import is_remote

__all__ = [
    "Answer",
    "add_outcomes",
    "check_unread",
    "error_of",
    "readable",
    "slice_content",
    "sliced",
    "unread_reason",
]

_LEAST, _MOST, _SHARES = 64, 2**15, 2
_LOOKED_AT = 4
"""Images of a slice, from its beginning to its end, of which a worker must be able to read one."""

Answer = dict[str, Any]
"""The `number` of a slice and the number of `images` done since the last answer; with the last one
also the `outcomes` of each part, and with the first one, if no image can be read, `unread`: the
host and the reason. Or an `error`: the name of its class, and its message."""


def sliced(items: Sequence[ImageItem], workers: int) -> list[Sequence[ImageItem]]:
    """Divide images into slices, smaller and smaller, so that all workers end together.

    As in guided self-scheduling (Polychronopoulos and Kuck, 1987).

    Parameters
    ----------
    items : sequence of ImageItem
        The images in the order of computation.
    workers : int
        Number of workers.

    Returns
    -------
    list of sequence of ImageItem
    """
    found, start = [], 0
    while start < len(items):
        size = -(-(len(items) - start) // (_SHARES * workers))
        stop = start + max(_LEAST, min(_MOST, size))
        found.append(items[start:stop])
        start = stop
    return found


def slice_content(number: int, items: Sequence[ImageItem], parts: Sequence[Part]) -> dict[str, Any]:
    """Return what a worker is told of a slice, in JSON types.

    Parameters
    ----------
    number : int
        Number of the slice.
    items : sequence of ImageItem
        Its images.
    parts : sequence of Part
        The parts of the pass.

    Returns
    -------
    dict
        The number, paths and digests, and the views of each part.
    """
    views = [
        {each.digest: own[each.digest] for each in items if each.digest in own}
        for own in (part.task.views for part in parts)
    ]
    pairs = [(item.path, item.digest) for item in items]
    return {"number": number, "items": pairs, "views": views}


def error_of(answer: Answer) -> BottleneckError:
    """Return the error of an answer.

    Parameters
    ----------
    answer : dict
        One with an `error`.

    Returns
    -------
    BottleneckError
    """
    name, message = answer["error"]
    kind = getattr(errors, name, ClusterError)
    found: BottleneckError = kind(message)
    return found


def _looked_at(items: Sequence[ImageItem]) -> Sequence[ImageItem]:
    """Return some images of a slice, from its beginning to its end."""
    return items[:: -(-len(items) // _LOOKED_AT)]


def unread_reason(items: Sequence[ImageItem]) -> str:
    """Return why the images of a slice cannot be read by this process.

    Parameters
    ----------
    items : sequence of ImageItem
        The images, of which some are tried until one can be read.

    Returns
    -------
    str
        "" if one can be.
    """
    reason = ""
    for item in _looked_at(items):
        try:
            read_file(item)
        except BadImageError as error:
            reason = reason or str(error)
        else:
            return ""
    return reason


def readable(items: Sequence[ImageItem]) -> set[str]:
    """Return the digests of images whose files this process can read, unchanged.

    Parameters
    ----------
    items : sequence of ImageItem
        Images, such as those that a worker could not read.

    Returns
    -------
    set of str
    """

    def digests(item: ImageItem) -> set[str]:
        with suppress(BadImageError):
            read_file(item)
            return {item.digest}
        return set()

    return set[str]().union(*in_threads(digests, items, workers=readers_for(items)))


def check_unread(items: Sequence[ImageItem], answer: Answer) -> None:
    """Make sure that it is not the worker's fault if it cannot read images.

    Parameters
    ----------
    items : sequence of ImageItem
        Those of its slice.
    answer : dict
        One with `unread`.

    Raises
    ------
    ClusterError
        This process can read some of them, so that they are there and unchanged.
    """
    looked_at, (host, reason) = _looked_at(items), answer["unread"]
    there = readable(looked_at)
    if found := next((item.path for item in looked_at if item.digest in there), None):
        remedy = (
            "give all nodes the credentials and the packages that reading it needs"
            if is_remote(found)
            else "give a folder that all nodes share under the same path, or a URL, as `data`"
        )
        raise ClusterError(
            f"the worker on {host!r} cannot read {found!r} ({reason}), which can be read here; "
            f"{remedy}"
        )


def add_outcomes(parts: Sequence[Part], answer: Answer, lost: Collection[str]) -> None:
    """Add what a worker has computed of a slice to the outcomes of the parts.

    Parameters
    ----------
    parts : sequence of Part
        The parts of the pass.
    answer : dict
        The last answer on the slice.
    lost : collection of str
        Digests of images which others will compute, so that they are not bad.
    """
    for part, each in zip(parts, answer["outcomes"], strict=True):
        outcome, remarks = part.outcome, Remarks(**each["remarks"])
        outcome.rows += each["rows"]
        outcome.bytes_written += each["bytes_written"]
        outcome.seconds += each["seconds"]
        outcome.bad |= {digest: why for digest, why in each["bad"].items() if digest not in lost}
        outcome.remarks.pages.update(remarks.pages)
        outcome.remarks.deep.update(remarks.deep)
