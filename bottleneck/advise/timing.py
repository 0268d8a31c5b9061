"""Tell what advice costs, from the time of the first fits, and what fine-tuning would cost."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import joblib
import numpy as np

from bottleneck.advise.fitting import fit_fold
from bottleneck.advise.scoring import Bench, FoldScores, plan_fits
from bottleneck.bases import find_model
from bottleneck.errors import BottleneckError
from bottleneck.heads.recipes import MLP, Recipe
from bottleneck.images import ImageItem, read_file
from bottleneck.records import FeatureSource

__all__ = ["Timed", "seconds_of", "time_fits", "try_training"]

_TRIAL = 8


class Timed(NamedTuple):
    """The time that fits take, estimated from the first of them.

    Attributes
    ----------
    seconds : float
        Wall time of all fits in one process.
    longest : float
        That of a fit on the largest subset.
    wide : float
        Fraction of the time that grows with the number of features: their reduction.
    known : dict of bytes to tuple
        The fits that were made, for `bottleneck.advise.scoring.score_sizes`.
    """

    seconds: float
    longest: float
    wide: float
    known: dict[bytes, FoldScores]


def time_fits(bench: Bench, recipe: Recipe, sizes: Sequence[int]) -> Timed:
    """Fit on the smallest subset, which loads libraries, and on the largest, which is timed.

    Parameters
    ----------
    bench, recipe, sizes : Bench, Recipe, sequence of int
        As for `bottleneck.advise.scoring.score_sizes`.

    Returns
    -------
    Timed
    """
    problem, known = bench.problem, dict[bytes, FoldScores]()
    fits = sorted(plan_fits(bench, sizes)[0].items(), key=lambda each: each[1].fit.sum())
    for key, fold in dict([fits[0], fits[-1]]).items():
        start = time.perf_counter()
        known[key] = fit_fold(problem, recipe, fold)
        seconds = time.perf_counter() - start
    rows = np.array([fold.fit.sum() for _, fold in fits])
    # Half of a fit's time grows with its rows.
    work = float((1 + rows / rows[-1]).sum() / 2)
    start = time.perf_counter()
    if not isinstance(recipe, MLP):
        problem.take(fold.fit | fold.held).reduction()
    wide = min(1.0, (time.perf_counter() - start) / seconds)
    return Timed(seconds * work, seconds, wide, known)


def seconds_of(timed: Sequence[Timed], ratios: Sequence[float]) -> float:
    """Return the wall time of all fits in one process.

    Parameters
    ----------
    timed : sequence of Timed
        The first is that of the judged layer, and stands for all layers; the others are those of
        other heads.
    ratios : sequence of float
        Number of features of each layer, divided by that of the judged one.

    Returns
    -------
    float
    """
    judged, *others = timed
    layers = judged.seconds * sum(1 - judged.wide + judged.wide * ratio for ratio in ratios)
    return layers + sum(each.seconds for each in others)


def try_training(
    source: FeatureSource, unfreeze: str, items: Sequence[ImageItem]
) -> dict[str, float]:
    """Pass some images through a network of random weights as fine-tuning would, and time it.

    Parameters
    ----------
    source : FeatureSource
        The features of the head at the start.
    unfreeze : str
        The first layer to train.
    items : sequence of ImageItem
        Images, of which the first are tried.

    Returns
    -------
    dict of str to float
        Seconds per image for reading it and computing the frozen layers (``frozen``), a step of the
        others (``trained``) and their output alone (``passed``); bytes of its activation between
        both in float16, 0 if there is none (``bytes``); and the number of ``images`` tried. Empty
        if the network or the images cannot be read, or memory is short.
    """
    with suppress(BottleneckError, OSError, RuntimeError, MemoryError):
        return _tried(source, unfreeze, items[:_TRIAL])
    return {}


def _tried(source: FeatureSource, unfreeze: str, items: Sequence[ImageItem]) -> dict[str, float]:
    import torch

    from bottleneck.bases.frozen import FrozenBase
    from bottleneck.bases.network import traced
    from bottleneck.bases.splitting import split_network, upper_part
    from bottleneck.bases.weights import load_weights
    from bottleneck.extract import preprocess

    model = find_model(source.model)
    weights = load_weights(model, "random")[1]
    size = source.adjustments.get("image_size")
    network = traced(model, weights.transform.crop, size)
    split = split_network(network, unfreeze, source.layer)
    layer = split.boundary or source.layer
    base = FrozenBase(
        source.model, [layer], weights="random", precision="fp32", **source.adjustments
    )
    device, transform = base.devices[0], base.transform

    def read() -> torch.Tensor:
        return torch.stack([preprocess(transform, read_file(item)) for item in items])

    def timed(work: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
        work().sum().item()  # the first time, memory is allocated; a GPU is waited for
        start = time.perf_counter()
        found = work()
        found.sum().item()
        return (time.perf_counter() - start) / len(items), found

    reading, pixels = timed(read)
    frozen, activations = 0.0, transform.normalise(pixels).to(device)
    if split.boundary:
        images = activations
        frozen, activations = timed(lambda: base(images)[layer])
    inputs = activations.clone()  # what inference mode has made cannot take part in training
    upper = upper_part(network, split, weights.load() | network.constants)
    upper.to(device).to(memory_format=torch.channels_last)

    def step() -> torch.Tensor:
        upper.forward(inputs).float().mean().backward()
        return next(each.grad for each in upper.parameters() if each.grad is not None)

    def passed() -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = upper.forward(inputs)
            return found

    return {
        "frozen": reading / joblib.cpu_count() + frozen,
        "trained": timed(step)[0],
        "passed": timed(passed)[0],
        "bytes": 2.0 * inputs[0].numel() if split.boundary else 0.0,
        "images": float(len(items)),
    }
