"""From the cached features of some layers to what should be done next."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.advise.evidence import Evidence, JudgedLayer, gather, other_heads
from bottleneck.advise.network import Depths
from bottleneck.advise.scoring import LEAST_PER_CLASS, Bench, make_bench, score_sizes
from bottleneck.advise.verdict import Verdict, decide
from bottleneck.cache import Cache
from bottleneck.errors import DataError, UsageError, WrongTypeError
from bottleneck.features import Features, load_features
from bottleneck.fields import checked, made
from bottleneck.heads.prepare import recipe_of
from bottleneck.heads.problem import Progress
from bottleneck.records import FeatureSource
from bottleneck.settings import AdviseSettings

__all__ = ["Advice", "advise_on", "grid_sizes"]

_LEAST_SIZES = 3
"""A power law has as many numbers."""
_MOST_SIZES = 6
_HEAD_REPEATS = 2
"""Repetitions in which other heads are tried: a network takes its time."""


@dataclass(frozen=True)
class Advice:
    """What cached features say about what to do next.

    Attributes
    ----------
    image_set, model : str
        Of the layers.
    layer, pool : str
        The last layer, on which the curve and the heads are.
    clf : str
        The classifier.
    held_out : str
        What the scores are of.
    evidence : Evidence
        What was measured.
    verdict : Verdict
        What to do.
    """

    image_set: str
    model: str
    layer: str
    pool: str
    clf: str
    held_out: str
    evidence: Evidence
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        """Return the advice as JSON holds it."""
        return asdict(self)


@checked
def advise_on(
    cache: Cache | str | Path,
    selections: Sequence[FeatureSource],
    settings: AdviseSettings | None = None,
    *,
    jobs: int | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Advice:
    """Measure what limits a head: the number of images, the layer, the head itself or the labels.

    Heads are fitted on nested subsets of the training images and judged on images that they have
    not seen: the ``val`` images where there are any, else folds of the training images. The test
    images are not touched, nor are augmented views. The rules that lead to the verdict are those of
    `bottleneck.advise.verdict.decide`.

    Parameters
    ----------
    cache : Cache, str or Path
        Where the features are.
    selections : sequence of FeatureSource
        The layers of one image set, as `bottleneck.select_layers` gives them.
    settings : AdviseSettings, optional
        How it is measured.
    jobs : int, optional
        Fits at a time, as joblib has it: its own configuration says how many by default.
    memory : int, optional
        Bytes that the features of a layer may take, see `bottleneck.load_features`.
    progress : callable, optional
        Called with ``"advise"``, the fits done and the fits to do.
    **options
        Fields of `AdviseSettings`, such as ``clf="svm", repeats=2``, instead of `settings`.

    Returns
    -------
    Advice

    Raises
    ------
    UnknownNameError
        There is no such classifier.
    UsageError
        There are no layers, folds or repetitions, a layer does not fit into memory, or an image may
        be of several classes.
    WrongTypeError
        The cache is neither a `Cache` nor a folder, or the selections are no layers.
    DataError
        The set has no labels, no train images or one class only, or too few images for three sizes.
    CacheError
        The cache lacks rows, or a part is damaged.
    """
    settings = made(AdviseSettings, settings, options)
    recipe = recipe_of(settings.clf)
    _check_layers(selections)
    cache, depths = Cache(cache), Depths(selections)
    layers = depths.in_order(selections)
    last = next(each for each in layers if each.layer == layers[-1].layer)

    def bench_of(layer: FeatureSource) -> Bench:
        return make_bench(_features(cache, layer, memory), recipe, settings)

    bench = bench_of(last)
    briefly = bench.first(_HEAD_REPEATS)
    sizes, others = _sizes(bench), other_heads(recipe)
    total = bench.fits * len(sizes) * len(layers) + briefly.fits * len(others)
    done = count()

    def advance() -> None:
        if progress:
            progress("advise", next(done), total)

    advance()
    score = partial(score_sizes, jobs=jobs, advance=advance)
    shape = bench.problem.X.shape[1], len(bench.problem.targets.classes)
    judged = []
    for each in layers:
        scored = score(bench if each is last else bench_of(each), recipe, sizes)
        cost = depths.fine_tuning(last, each, *shape)
        judged.append(JudgedLayer(each, depths.share(each), cost, scored))
    heads = [(each, richer, score(briefly, each, sizes[-1:])[0]) for each, richer in others]
    own = judged[layers.index(last)]
    evidence = gather(bench, judged, own, heads, briefly, seed=settings.seed)
    return Advice(
        image_set=last.image_set,
        model=last.model,
        layer=last.layer_name,
        pool=last.pool,
        clf=recipe.name,
        held_out=bench.held_out,
        evidence=evidence,
        verdict=decide(evidence),
    )


def _check_layers(selections: Sequence[FeatureSource]) -> None:
    if not all(isinstance(each, FeatureSource) for each in selections):
        raise WrongTypeError(
            f"`selections` must be layers as bottleneck.select_layers gives them, got {selections}"
        )
    if not selections:
        raise UsageError(
            "no layers to advise on; expected at least one: give those of an extraction"
        )
    models = list(dict.fromkeys(each.model for each in selections))
    if len(models) > 1:
        raise UsageError(
            f"the layers are of several models ({', '.join(models)}); expected those of one: "
            f"choose it with `model`"
        )


def _features(cache: Cache, selection: FeatureSource, memory: int | None) -> Features:
    """Load a layer without its augmented views."""
    features = load_features(cache, selection.with_views(0), memory=memory)
    if not isinstance(features.X, np.ndarray):
        raise UsageError(
            f"{selection} needs {features.bytes_in_memory / 1e6:.0f} MB with copies, but may "
            f"take {(memory or 0) / 1e6:.0f} MB; give a `pool` that makes fewer features, or more "
            f"`memory`"
        )
    return features


def _sizes(bench: Bench) -> list[int]:
    """Return how many rows heads are fitted on; `DataError` where there are too few sizes."""
    rows = min(int(fold.fit.sum()) for folds in bench.repeats for fold in folds)
    classes = len(bench.problem.targets.classes)
    sizes = grid_sizes(rows, classes)
    if len(sizes) < _LEAST_SIZES:
        least = LEAST_PER_CLASS * classes * 2 ** (_LEAST_SIZES - 1)
        raise DataError(
            f"heads can be fitted on {rows} training images of {classes} classes, and a learning "
            f"curve of {_LEAST_SIZES} sizes needs {least}; add images"
        )
    # Folds differ by a few rows: the largest size is all that each has.
    return [*sizes[:-1], bench.images]


def grid_sizes(n_rows: int, n_classes: int) -> list[int]:
    """Return how many rows the subsets have: halved again and again, ascending, all at last.

    Parameters
    ----------
    n_rows : int
        That there are.
    n_classes : int
        Of which every subset has `LEAST_PER_CLASS` rows.

    Returns
    -------
    list of int
    """
    halved = (n_rows // 2**k for k in range(_MOST_SIZES))
    return sorted({size for size in halved if size >= LEAST_PER_CLASS * n_classes} | {n_rows})
