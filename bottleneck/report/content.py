"""What a report says: one dataclass, whose sections are absent where there is nothing to show."""

from dataclasses import asdict, dataclass, field
from typing import Any

from bottleneck.errors import some_of
from bottleneck.images import ImageItem, Summary
from bottleneck.report.following import NextSection, Source
from bottleneck.report.galleries import Gallery
from bottleneck.report.judging import Given, HeadSection
from bottleneck.report.maps import MapSection
from bottleneck.report.thumbnails import Thumbnail

__all__ = ["PageImage", "Report", "Sizes"]


@dataclass(frozen=True, slots=True)
class PageImage:
    """An image of the map and of the gallery with filters.

    Attributes
    ----------
    item : ImageItem
        The image.
    given : tuple of Given or None
        By each head, in order; None for an image whose features the head did not score.
    place : tuple of float or None
        Its place on the map, from 0 to 1; None if the map does not have it.
    """

    item: ImageItem
    given: tuple[Given | None, ...] = ()
    place: tuple[float, float] | None = None


@dataclass(frozen=True)
class Sizes:
    """Sizes of images, in pixels and bytes.

    Attributes
    ----------
    images : int
        Number of images measured.
    common : list of (str, int)
        The most frequent sizes, such as ``500 x 375``, and how many images have them.
    smallest, largest : str
        By the number of pixels.
    median_bytes : int
        Median of the sizes of the files.
    """

    images: int
    common: list[tuple[str, int]]
    smallest: str
    largest: str
    median_bytes: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that a report shows.

    Attributes
    ----------
    title, time, version, split : str
        The title; when it was made, in ISO format; the version of this package; and the split that
        heads are evaluated on.
    summary : Summary
        The content of the image set; its `rejected` are those of the last extraction.
    sizes : Sizes or None
        Of the images with thumbnails.
    heads : list of HeadSection
        The heads.
    galleries : list of Gallery
        Groups of images: duplicates, conflicts, leaks.
    map : MapSection or None
        None without features.
    images : list of PageImage
        Those of the map and of the gallery: all, or a sample.
    thumbnails : dict of str to Thumbnail
        By digest.
    next : NextSection
        What to do next.
    sources : list of Source
        Where the features came from.
    commands : list of str
        What to type to repeat it.
    notes : list of str
        What is missing, and why.
    """

    title: str
    time: str
    version: str
    split: str
    summary: Summary
    sizes: Sizes | None = None
    heads: list[HeadSection] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    map: MapSection | None = None
    images: list[PageImage] = field(default_factory=list)
    thumbnails: dict[str, Thumbnail] = field(default_factory=dict)
    next: NextSection = field(default_factory=NextSection)
    sources: list[Source] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_sample(self) -> bool:
        """Whether the map and the gallery have only some of the images."""
        return len(self.images) < self.summary.images

    @property
    def left_out(self) -> list[str]:
        """What the last extraction left out, but for images that cannot be used, by kind."""
        summary = self.summary
        kinds = {
            "classes left out for their number of images": [
                f"{each.label} ({each.images})" for each in summary.small_classes
            ],
            "classes without an image that can be used": summary.lost_classes,
            "files left out": [f"{each.reason} ({each.count})" for each in summary.left_out],
            "folders that were not looked into": summary.passed_over,
            "folders without images": summary.empty,
        }
        return [f"{kind}: {some_of(own)}" for kind, own in kinds.items() if own]

    def wrong(self, place: int, most: int = 50) -> list[PageImage]:
        """Return images of the evaluated split that a head gets wrong, the most confident first.

        Parameters
        ----------
        place : int
            Which head.
        most : int
            Maximum number of images.

        Returns
        -------
        list of PageImage
        """
        found = [
            (-given.confidence, each.item.path, each)
            for each in self.images
            if each.item.split == self.split
            if (given := each.given[place]) and given.right is False
        ]
        return [each for *_, each in sorted(found, key=lambda one: one[:2])[:most]]

    def as_dict(self) -> dict[str, Any]:
        """Return the content in JSON types, without thumbnails and pictures."""
        own = vars(self).keys() - {"thumbnails", "images", "heads", "next"}
        found = {name: _plain(getattr(self, name)) for name in own}
        found["is_sample"] = self.is_sample
        found["heads"] = [_plain(each) | {"epochs": None} for each in self.heads]
        found["images"] = [
            {
                **_plain(each),
                "missing": self.thumbnails[each.item.digest].missing,
            }
            for each in self.images
        ]
        advice = self.next.advice
        found["next"] = {
            **_plain(self.next),
            "advice": advice and advice.as_dict(),
            "curves": None,
            "tuned": [_plain(each) | {"epochs": None} for each in self.next.tuned],
        }
        return found


def _plain(value: Any) -> Any:
    """Return dataclasses, also in lists, as dictionaries."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value
