"""What a report says: one dataclass, whose sections are absent where there is nothing to show."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bottleneck.advise import Advice
from bottleneck.evaluate import Evaluation
from bottleneck.images import ImageItem, Summary
from bottleneck.report.thumbnails import Thumbnail

__all__ = [
    "Bin",
    "Card",
    "Difference",
    "Gallery",
    "Given",
    "HeadSection",
    "Leaderboard",
    "MapSection",
    "NextSection",
    "PageImage",
    "Picture",
    "Report",
    "Sizes",
    "Source",
]


@dataclass(frozen=True)
class Picture:
    """A drawing.

    Attributes
    ----------
    svg : str
        The drawing as SVG; empty if there is none.
    alt : str
        What it shows, in words; or why there is none.
    """

    svg: str
    alt: str


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


@dataclass(frozen=True, slots=True)
class Given:
    """What a head gave an image.

    Attributes
    ----------
    label : str
        The predicted class or classes.
    confidence : float
        Probability of the predicted class; if images may have several classes, of the least certain
        decision.
    right : bool or None
        Whether it is the image's label; None for an image that is not scored, because it is also in
        another split or has a class that the head does not know.
    """

    label: str
    confidence: float
    right: bool | None


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
class Bin:
    """Predictions of about the same confidence.

    Attributes
    ----------
    confidence, accuracy : float
        Means over the predictions.
    predictions : int
        How many they are.
    """

    confidence: float
    accuracy: float
    predictions: int


@dataclass(frozen=True)
class Difference:
    """The accuracy of a head minus that of the first head, on the same images.

    Attributes
    ----------
    gain : float
        The difference.
    interval : tuple of float
        95% interval, paired over the images.
    images : int
        Number of images that both were scored on.
    """

    gain: float
    interval: tuple[float, float]
    images: int


@dataclass(frozen=True, kw_only=True)
class HeadSection:
    """A head, and what it does on held-out images.

    Attributes
    ----------
    name, clf, features : str
        Name of the head, its classifier, and the layer that it was fitted on.
    hyperparameters : dict
        As in the head's record.
    temperature : float
        Divides its scores.
    problem : str
        Why it could not be evaluated; empty if it was.
    evaluation : Evaluation or None
        On the split of the report.
    before, after : list of Bin
        Calibration with a temperature of 1, and with that of the head.
    error_before : float
        Calibration error with a temperature of 1.
    difference : Difference or None
        None for the first head, or without images that both were scored on.
    reading : str
        What the curves of a training in epochs show.
    epochs : Picture or None
        These curves.
    """

    name: str
    clf: str
    features: str
    hyperparameters: dict[str, Any]
    temperature: float
    problem: str = ""
    evaluation: Evaluation | None = None
    before: list[Bin] = field(default_factory=list)
    after: list[Bin] = field(default_factory=list)
    error_before: float = 0.0
    difference: Difference | None = None
    reading: str = ""
    epochs: Picture | None = None


@dataclass(frozen=True)
class MapSection:
    """How features were put on a map.

    Attributes
    ----------
    sentence : str
        The method, and how much of the features it shows.
    axes : tuple of str
        Names of the axes.
    """

    sentence: str
    axes: tuple[str, str]


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


@dataclass(frozen=True)
class Leaderboard:
    """The best experiments of sweeps on these images.

    Attributes
    ----------
    log, metric : str
        The file, and the metric that they are sorted by.
    rows : list of dict
        The best first.
    experiments : int
        Number of all experiments on these images.
    """

    log: str
    metric: str
    rows: list[dict[str, Any]]
    experiments: int


@dataclass(frozen=True)
class NextSection:
    """What to do next.

    Attributes
    ----------
    advice : Advice or None
        The last advice on these features.
    curves : Picture or None
        Its learning curve and layers.
    command, estimate : str
        What to type, and about how long it takes.
    outcomes : list of str
        What fine-tuning gave, beside the verdict.
    leaderboard : Leaderboard or None
        None without experiments on these images.
    """

    advice: Advice | None = None
    curves: Picture | None = None
    command: str = ""
    estimate: str = ""
    outcomes: list[str] = field(default_factory=list)
    leaderboard: Leaderboard | None = None


@dataclass(frozen=True)
class Source:
    """Where features or a head came from.

    Attributes
    ----------
    title : str
        The layer of features.
    facts : dict of str to str
        Model, weights, fingerprint, precision and versions.
    """

    title: str
    facts: dict[str, str]


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

    def as_dict(self) -> dict[str, Any]:
        """Return the content in JSON types, without thumbnails and pictures."""
        own = vars(self).keys() - {"thumbnails", "images", "heads", "next"}
        found = {name: _plain(getattr(self, name)) for name in own}
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
        }
        return found


def _plain(value: Any) -> Any:
    """Return dataclasses, also in lists, as dictionaries."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value
