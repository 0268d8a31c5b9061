"""What features and heads on them cost: time and work for each image, and space on disk."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any

from bottleneck.bases import find_model
from bottleneck.cache import Cache
from bottleneck.errors import BottleneckError
from bottleneck.pooling import pooled_shape
from bottleneck.records import AnySource, Extraction, FeatureSource

__all__ = ["Cost", "HeadShape", "comparable_work", "costs_of"]


@dataclass(frozen=True)
class HeadShape:
    """What the cost of a head's scores depends on, besides the number of features.

    Attributes
    ----------
    clf : str
        The classifier.
    classes, images : int
        Number of classes, and of images that it is fitted on.
    hidden : int
        Number of hidden units, of mlp only.
    """

    clf: str
    classes: int
    images: int
    hidden: int = 0

    def multiply_adds(self, n_features: int) -> int:
        """Return the multiply-adds of the scores of one image.

        Parameters
        ----------
        n_features : int
            Number of features.

        Returns
        -------
        int
        """
        if self.clf == "knn":
            return self.images * n_features
        if self.clf == "mlp":
            return self.hidden * (n_features + self.classes)
        return self.classes * n_features


@dataclass(frozen=True)
class Cost:
    """What features cost, and a prediction from them. None stands for what is unknown.

    Attributes
    ----------
    seconds_per_image : float or None
        Measured wall time of the extractions that computed the features, divided by the images and
        views that they computed. It includes reading and decoding, and the start of the network.
    multiply_adds_per_image : int or None
        Of the base up to the layer.
    bytes_on_disk : int or None
        Of all parts of its bank, which may have other layers and image sets, too.
    seconds_per_prediction : float or None
        `seconds_per_image`, and the head at as many multiply-adds per second.
    multiply_adds_per_prediction : int or None
        Of the base and the head.
    """

    seconds_per_image: float | None = None
    multiply_adds_per_image: int | None = None
    bytes_on_disk: int | None = None
    seconds_per_prediction: float | None = None
    multiply_adds_per_prediction: int | None = None


def costs_of(cache: Cache, priced: Sequence[tuple[AnySource, HeadShape]]) -> list[Cost]:
    """Return what features cost, and predictions by heads on them.

    Parameters
    ----------
    cache : Cache
        The cache, with the records of extractions and the banks.
    priced : sequence of (FeatureSource or JoinedSource, HeadShape)
        Features and the head on them. Of joined layers, those of one base take one pass; passes
        add up.

    Returns
    -------
    list of Cost
        In the same order.
    """
    runs = cache.runs(damaged_too=False)
    return [_cost(cache, runs, *each) for each in priced]


def _cost(cache: Cache, runs: Sequence[Extraction], source: AnySource, head: HeadShape) -> Cost:
    passes: dict[Any, list[FeatureSource]] = {}
    for part in source.parts:
        passes.setdefault((part.model, part.weights, str(part.adjustments)), []).append(part)
    seconds = _total([_seconds(runs, own) for own in passes.values()])
    base = _total([_multiply_adds(own) for own in passes.values()])
    banks = {bank.path: bank for part in source.parts for bank in cache.banks_of(part)[:1]}
    known = banks and all(bank.exists for bank in banks.values())
    width = _total([_width(cache, part) for part in source.parts])
    own_work = None if width is None else head.multiply_adds(int(width))
    work = _total([base, own_work])
    return Cost(
        seconds_per_image=seconds,
        multiply_adds_per_image=None if base is None else int(base),
        bytes_on_disk=sum(bank.size for bank in banks.values()) if known else None,
        seconds_per_prediction=seconds * work / base if seconds and base and work else None,
        multiply_adds_per_prediction=None if work is None else int(work),
    )


def comparable_work(costs: Sequence[Cost]) -> list[int] | None:
    """Return the multiply-adds of a prediction by each of several bases.

    Parameters
    ----------
    costs : sequence of Cost
        Costs of the bases.

    Returns
    -------
    list of int or None
        None if those of a base are unknown.
    """
    known = [each.multiply_adds_per_prediction for each in costs]
    work = [each for each in known if each is not None]
    return work if len(work) == len(known) else None


def _total(values: Sequence[float | None]) -> float | None:
    """Return the sum, or None if one of them is unknown."""
    known = [each for each in values if each is not None]
    return sum(known) if len(known) == len(values) else None


def _seconds(runs: Sequence[Extraction], parts: Sequence[FeatureSource]) -> float | None:
    """Return the measured seconds for each computed image of the layers of one base.

    Runs that computed few images count little, as they mostly measure how long a start takes.
    """
    wanted = {(part.image_set, part.fingerprint) for part in parts}
    found = [
        (run.seconds, run.computed + run.views_computed)
        for run in runs
        if wanted & {(run.image_set, layer.fingerprint) for layer in run.layers}
    ]
    images = sum(each for _, each in found)
    known = images and not parts[0].is_imported
    return sum(each for each, _ in found) / images if known else None


def _multiply_adds(parts: Sequence[FeatureSource]) -> int | None:
    """Return the multiply-adds of one base up to the deepest of its layers."""
    if parts[0].is_imported:
        return None
    from bottleneck.bases.network import traced

    size = parts[0].adjustments.get("image_size")
    with suppress(BottleneckError):
        network = traced(find_model(parts[0].model), None, size)
        names = {part.layer: part.layer_name for part in parts}
        layers = network.sized(size or network.image_size, names)
        return max(layers[name].multiply_adds for name in names)
    return None


def _width(cache: Cache, part: FeatureSource) -> int | None:
    """Return the number of features of a layer after its pooling."""
    bank, *_ = cache.banks_of(part)
    if not bank.exists or part.layer not in bank.info.layers:
        return None
    shape = tuple(bank.info.layers[part.layer].shape)
    if part.pool != part.stored_pool:
        shape = pooled_shape(shape, part.pool, part.axes)
    return prod(shape)
