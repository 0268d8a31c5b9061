"""Images that are objects of this process: those of Python sequences."""

from collections.abc import Callable

from bottleneck.errors import BadImageError

__all__ = ["SCHEME", "object_path", "offer", "read_object"]

SCHEME = "python://"
_offered: dict[str, tuple[object, Callable[[int], bytes]]] = {}


def offer(name: str, source: object, read: Callable[[int], bytes]) -> str:
    """Let images of an object be read by their paths, as long as this process lives.

    Parameters
    ----------
    name : str
        Name of the set.
    source : object
        What has the images.
    read : callable
        Returns the bytes of the image with a number.

    Returns
    -------
    str
        The name in their paths; with a number if another object has this name already.
    """
    own, count = name, 1
    while own in _offered and _offered[own][0] is not source:
        count += 1
        own = f"{name}-{count}"
    _offered[own] = source, read
    return own


def object_path(name: str, number: int) -> str:
    """Return the path of an image.

    Parameters
    ----------
    name : str
        The result of `offer`.
    number : int
        Number of the image.

    Returns
    -------
    str
        Such as ``python://digits/000017``.
    """
    return f"{SCHEME}{name}/{number:06d}"


def read_object(path: str) -> bytes:
    """Return the bytes of an image.

    Parameters
    ----------
    path : str
        The result of `object_path`.

    Returns
    -------
    bytes

    Raises
    ------
    BadImageError
        This process has not been given the object.
    """
    name, _, number = path.removeprefix(SCHEME).rpartition("/")
    if name not in _offered or not number.isdecimal():
        raise BadImageError(
            "it is an image of a Python object that this process does not have; open the object "
            "again with `ImageSet.open` first, or save its images as files"
        )
    return _offered[name][1](int(number))
