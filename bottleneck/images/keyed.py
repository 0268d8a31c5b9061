"""Labels of images in archives of WebDataset: ``KEY.cls``, ``KEY.txt`` or ``KEY.json``."""

import json
from contextlib import suppress
from pathlib import Path, PurePosixPath

from bottleneck.errors import BadImageError, some_of
from bottleneck.images.splits import split_of
from bottleneck.images.walking import Walked
from bottleneck.names import normal_name
from bottleneck.records import RejectedImage
from bottleneck.sources import open_source, reasons_told, remembered, version_of

__all__ = ["SIDECARS", "Sidecars", "label_of_value"]

SIDECARS = (".cls", ".json", ".txt")
"""Endings of the files that tell a label, the first that does counts."""
_KEYS = ("label", "class", "cls")
_LONGEST = 100
_MOST_BYTES = 2**20


class Sidecars:
    """The files beside images that may tell their labels."""

    def __init__(self) -> None:
        self._of_key: dict[str, dict[str, str]] = {}

    def add(self, path: str) -> None:
        """Add a file with one of the endings `SIDECARS`.

        Parameters
        ----------
        path : str
            The path of the archive, with the file's name in it.
        """
        suffix = PurePosixPath(path).suffix
        self._of_key.setdefault(path.removesuffix(suffix), {})[suffix.lower()] = path

    def tell(self, root: Path, walked: Walked) -> None:
        """Give images the labels that the files beside them tell, if any does.

        Images beside which there is none are then bad images. Where no file tells a label, all of
        them are other files.

        Parameters
        ----------
        root : Path
            What stands for the folder of the images.
        walked : Walked
            The images, which is changed.
        """
        own = [self._of_key.get(_key_of(path, self._of_key), {}) for path in walked.paths]
        used = {path for each in own for path in each.values()}
        every = [path for each in self._of_key.values() for path in each.values()]
        walked.ignored += [path for path in every if path not in used]
        labels = [_label_in(each) for each in own]
        if not any(labels):
            walked.ignored += [path for path in every if path in used]
            return
        paths, images = walked.paths, walked.images
        splits = [_split_of(image.relative_to(root)) for image in images]
        given = all(split for split, label in zip(splits, labels, strict=True) if label)
        walked.images, walked.at = [], []
        for image, path, label, split in zip(images, paths, labels, splits, strict=True):
            if label is None:
                reason = f"no file beside it tells a label; add KEY{SIDECARS[0]}"
                walked.rejected.append(RejectedImage(path, reason))
                continue
            walked.images.append(image)
            walked.at.append(path)
            walked.told.append((label, split if given else None, None))
        endings = sorted({PurePosixPath(path).suffix.lower() for path in used})
        walked.notes.append(f"labels were read from the files {some_of(endings)} beside the images")


def _key_of(path: str, known: dict[str, dict[str, str]]) -> str:
    """Return the name that an image has in common with other files, up to a full stop."""
    whole = path.removesuffix(PurePosixPath(path).suffix)
    folder, slash, name = path.rpartition("/")
    return whole if whole in known else folder + slash + name.partition(".")[0]


def _split_of(image: Path) -> str | None:
    return next((split for part in image.parts[:-1] if (split := split_of(part))), None)


def _label_in(files: dict[str, str]) -> str | None:
    """Return the label that the first of some files tells; None if none does."""
    for suffix in SIDECARS:
        if suffix in files:
            with suppress(BadImageError, ValueError, RecursionError), reasons_told():
                if found := _told_by(files[suffix], suffix):
                    return found
    return None


def _told_by(path: str, suffix: str) -> str | None:
    """Return the label that a file tells, remembered if it is behind a URL."""
    known = remembered()
    version = version_of(path) if known else ""
    if known:
        match known.find(path, version):
            case (str() | None as label,):
                return label
    with open_source(path) as file:
        text = file.read(_MOST_BYTES).decode()
    found = _label_in_json(text) if suffix == ".json" else _one_line(text)
    if known:
        known.add(path, version, found)
    return found


def _one_line(text: str) -> str | None:
    text = text.strip()
    return normal_name(text) if len(text) <= _LONGEST and "\n" not in text else None


def _label_in_json(text: str) -> str | None:
    content = json.loads(text)
    if not isinstance(content, dict):
        return label_of_value(content)
    return next((label_of_value(content[key]) for key in _KEYS if key in content), None)


def label_of_value(value: object) -> str | None:
    """Return a label from a value: a text, a whole number, or a list of these for several classes.

    A whole number may be a float, as 1.0 is where numbers are missing elsewhere.

    Parameters
    ----------
    value : object
        The value.

    Returns
    -------
    str or None
        None if it is none of these.
    """
    if isinstance(value, list) and value:
        several = [label_of_value(each) for each in value]
        return ";".join(map(str, several)) if all(several) else None
    if isinstance(value, str):
        return normal_name(value) or None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None
