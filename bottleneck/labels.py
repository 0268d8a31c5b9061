"""Labels of images, which may name several classes, and their encoding for classifiers."""

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Self

import numpy as np

from bottleneck.errors import DataError
from bottleneck.names import natural_key, normal_name

__all__ = [
    "SEPARATOR",
    "Targets",
    "carry_several",
    "classes_in",
    "classes_of",
    "join_classes",
    "known_labels",
    "rarest_classes",
    "unknown_classes",
    "without_classes",
]

SEPARATOR = ";"


def classes_of(label: str) -> tuple[str, ...]:
    """Return the classes in a label, such as ``cat;indoors``; ``;`` alone means none.

    Parameters
    ----------
    label : str
        A label as in a table.

    Returns
    -------
    tuple of str
        In the order in the label.
    """
    if SEPARATOR not in label:
        return (label,)
    return tuple(filter(None, map(str.strip, label.split(SEPARATOR))))


def classes_in(labels: Iterable[str | None]) -> set[str]:
    """Return all classes that labels name.

    Parameters
    ----------
    labels : iterable of str or None
        Labels of images; None for an image without one.

    Returns
    -------
    set of str
    """
    return {each for label in set(labels) if label is not None for each in classes_of(label)}


def join_classes(classes: Iterable[str]) -> str:
    """Return the label of some classes; `SEPARATOR` for none.

    Parameters
    ----------
    classes : iterable of str
        Names of the classes.

    Returns
    -------
    str
    """
    return SEPARATOR.join(classes) or SEPARATOR


def carry_several(labels: Iterable[str]) -> bool:
    """Return whether images may have several classes: any label contains `SEPARATOR`.

    Parameters
    ----------
    labels : iterable of str
        Labels as in a table.

    Returns
    -------
    bool
    """
    return any(SEPARATOR in label for label in labels)


def rarest_classes(labels: Sequence[str]) -> list[str]:
    """Return the rarest class of each label; `SEPARATOR` for a label without classes.

    Stratifying by it spreads rare classes first (the idea of Sechidis, Tsoumakas and Vlahavas 2011,
    On the Stratification of Multi-label Data, section 3).

    Parameters
    ----------
    labels : sequence of str
        n labels.

    Returns
    -------
    list of str
        n classes; of equally rare ones the first in alphabetical order.
    """
    named = [classes_of(label) for label in labels]
    counts = Counter(chain.from_iterable(named))
    return [
        min(classes, key=lambda each: (counts[each], each), default=SEPARATOR) for classes in named
    ]


def unknown_classes(
    labels: Iterable[str], classes: Iterable[str], *, multilabel: bool
) -> dict[str, int]:
    """Return the classes in labels that are not known, with their numbers of labels.

    Parameters
    ----------
    labels : iterable of str
        Labels as in a table.
    classes : iterable of str
        The known classes.
    multilabel : bool
        Whether labels may name several classes.

    Returns
    -------
    dict of str to int
        In natural order.
    """
    known = {normal_name(each) for each in classes}
    named = (classes_of(str(each)) if multilabel else (str(each),) for each in labels)
    found = Counter(each for each in chain.from_iterable(named) if normal_name(each) not in known)
    return dict(sorted(found.items(), key=lambda pair: natural_key(pair[0])))


def without_classes(label: str, left_out: Container[str], *, multilabel: bool) -> str | None:
    """Return a label without some classes.

    Parameters
    ----------
    label : str
        A label as in a manifest.
    left_out : container of str
        The classes to leave out.
    multilabel : bool
        Whether the label may name several classes.

    Returns
    -------
    str or None
        None if it has no other classes.
    """
    named = classes_of(label) if multilabel else (label,)
    rest = [each for each in named if each not in left_out]
    if len(rest) == len(named):
        return label
    return join_classes(rest) if rest else None


def known_labels(
    labels: np.ndarray, classes: Sequence[str], *, multilabel: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels that have a known class, without the unknown ones that they name.

    Parameters
    ----------
    labels : np.ndarray
        Shape (n,); or bool of shape (n, k), whose classes are all known.
    classes : sequence of str
        The known classes.
    multilabel : bool
        Whether labels may name several classes.

    Returns
    -------
    labels : np.ndarray
        Shape (m,). All n if none has a known class.
    known : np.ndarray
        bool of shape (n,): which labels these are.
    """
    labels = np.asarray(labels)
    known = np.ones(len(labels), dtype=bool)
    if labels.ndim > 1:
        return labels, known
    unknown = unknown_classes(labels, classes, multilabel=multilabel)
    if not unknown:
        return labels, known
    rest = [without_classes(str(label), unknown, multilabel=multilabel) for label in labels]
    known = np.array([label is not None for label in rest])
    return (np.array(rest, dtype=object)[known], known) if known.any() else (labels, ~known)


@dataclass(frozen=True, eq=False)
class Targets:
    """Labels encoded as numbers.

    Attributes
    ----------
    classes : tuple of str
        The k class names, in order.
    codes : np.ndarray
        int of shape (n,): the class of each row; or bool of shape (n, k), if rows may have several
        classes or none.
    """

    classes: tuple[str, ...]
    codes: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, *, multilabel: bool = False) -> Self:
        """Encode labels of shape (n,); rows have several classes if any label has a `SEPARATOR`.

        `multilabel` forces that, as other labels of the same set may have one. Indicators are
        accepted, too: bool of shape (n, k), whose classes are named by their column numbers. Names
        of classes are sorted by `natural_key`.

        Parameters
        ----------
        labels : np.ndarray
            Shape (n,), or (n, k).
        multilabel : bool
            Whether rows may have several classes even if no label has a `SEPARATOR`.

        Returns
        -------
        Targets
            n rows.
        """
        if labels.ndim > 1:
            return cls(tuple(map(str, range(labels.shape[1]))), labels.astype(bool))
        if multilabel or (labels.dtype.kind in "UO" and carry_several(map(str, labels))):
            named = chain.from_iterable(classes_of(str(label)) for label in labels)
            return cls.among(labels, sorted(set(named), key=natural_key), multilabel=True)
        classes, codes = np.unique(labels, return_inverse=True)
        if not all(isinstance(each, str) for each in classes):
            return cls(tuple(map(str, classes)), codes)
        names = list(map(str, classes))
        order = sorted(range(len(names)), key=lambda code: natural_key(names[code]))
        return cls(tuple(names[code] for code in order), np.argsort(order)[codes])

    @classmethod
    def among(cls, labels: np.ndarray, classes: Sequence[str], *, multilabel: bool) -> Self:
        """Encode labels with the given `classes`, one or several for each row.

        Parameters
        ----------
        labels : np.ndarray
            Shape (n,), or bool of shape (n, k).
        classes : sequence of str
            k classes.
        multilabel : bool
            Whether labels may name several classes.

        Returns
        -------
        Targets
            Labels of n rows with k classes.

        Raises
        ------
        DataError
            A label has another class.
        """
        if labels.ndim > 1:
            return cls(tuple(classes), labels.astype(bool))
        place = {each: number for number, each in enumerate(classes)}
        normal = {normal_name(each): each for each in classes}
        named = [classes_of(str(label)) if multilabel else (str(label),) for label in labels]
        told = {each: normal.get(normal_name(each), each) for each in chain.from_iterable(named)}
        named = [tuple(each if each in place else told[each] for each in own) for own in named]
        if unknown := {*chain.from_iterable(named)} - place.keys():
            raise DataError(
                f"held-out images have the class {min(unknown)!r}, which the head was not fitted "
                f"on; expected only {', '.join(classes)}: add training images of it and fit "
                f"again, or correct the labels"
            )
        if not multilabel:
            return cls(tuple(classes), np.array([place[own] for (own,) in named], dtype=int))
        codes = np.zeros((len(named), len(place)), dtype=bool)
        for row, own in enumerate(named):
            codes[row, [place[each] for each in own]] = True
        return cls(tuple(classes), codes)

    @property
    def multilabel(self) -> bool:
        """Whether rows may have several classes."""
        return self.codes.ndim > 1

    @property
    def indicators(self) -> np.ndarray:
        """The classes of each row, bool of shape (n, k)."""
        if self.multilabel:
            return self.codes
        return np.asarray(self.codes[:, None] == np.arange(len(self.classes)))

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: np.ndarray) -> Self:
        """Return some rows, chosen by boolean mask or by index.

        Parameters
        ----------
        rows : np.ndarray
            Boolean mask of shape (n,), or indices.

        Returns
        -------
        Targets
            With the same classes.
        """
        return replace(self, codes=self.codes[rows])
