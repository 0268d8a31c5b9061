"""Turn the cached features of some layers into advice on what to do next."""

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
from bottleneck.arguments import checked, made
from bottleneck.cache import Cache
from bottleneck.errors import DataError, UsageError
from bottleneck.features import Features, check_layers, load_features
from bottleneck.heads.prepare import recipe_of
from bottleneck.heads.problem import Progress
from bottleneck.records import FeatureSource
from bottleneck.settings import AdviseSettings

__all__ = ["Advice", "advise_on", "grid_sizes"]

_LEAST_SIZES = 3
"""The number of parameters of a power law."""
_MOST_SIZES = 6
_HEAD_REPEATS = 2
"""Repetitions for other heads, because a network takes long to train."""


@dataclass(frozen=True)
class Advice:
    """Advice on what to do next, with its evidence.

    Attributes
    ----------
    image_set, model : str
        The image set and model of the layers.
    layer, pool : str
        The last layer, used for the learning curve and for comparing heads.
    clf : str
        The classifier.
    held_out : str
        The images that the scores are computed on, in words.
    evidence : Evidence
        The measurements.
    verdict : Verdict
        The conclusion.
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
        """Return the advice in JSON types."""
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
    """Measure what limits a head: the number of images, the layer, the head or the labels.

    Heads are fitted on nested subsets of the training images and judged on held-out images: the
    ``val`` images if there are any, else folds of the training images. Test images and augmented
    views are not used. `bottleneck.advise.verdict.decide` has the rules for the verdict.

    Parameters
    ----------
    cache : Cache, str or Path
        The cache, or its folder.
    selections : sequence of FeatureSource
        The layers, all of one image set: the result of `bottleneck.select_layers`.
    settings : AdviseSettings, optional
        The classifier, repetitions and folds.
    jobs : int, optional
        Number of parallel fits; by default as joblib is configured.
    memory : int, optional
        Memory limit in bytes for the features of a layer, see `bottleneck.load_features`.
    progress : callable, optional
        Called with ``"advise"``, the number of fits done and their total.
    **options
        Fields of `AdviseSettings`, such as ``clf="svm", repeats=2``, in place of `settings`.

    Returns
    -------
    Advice

    Raises
    ------
    UnknownNameError
        The classifier does not exist.
    UsageError
        There are no layers, folds or repetitions, a layer does not fit into memory, or images may
        have several classes.
    WrongTypeError
        The cache is neither a `Cache` nor a folder, or `selections` are not layers.
    DataError
        The set has no labels, no train images, only one class, or too few images for three sizes.
    CacheError
        The cache lacks rows, or a part is damaged.
    """
    settings = made(AdviseSettings, settings, options)
    recipe = recipe_of(settings.clf)
    _check_models(selections)
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
    evidence = gather(bench, judged, judged[layers.index(last)], heads, briefly, seed=settings.seed)
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


def _check_models(selections: Sequence[FeatureSource]) -> None:
    check_layers(selections)
    if not selections:
        raise UsageError("no layers to advise on; give at least one extracted layer")
    models = list(dict.fromkeys(each.model for each in selections))
    if len(models) > 1:
        raise UsageError(
            f"the layers come from several models ({', '.join(models)}); choose one with `model`"
        )


def _features(cache: Cache, selection: FeatureSource, memory: int | None) -> Features:
    """Load a layer without its augmented views."""
    features = load_features(cache, selection.with_views(0), memory=memory)
    if not isinstance(features.X, np.ndarray):
        raise UsageError(
            f"{selection} needs {features.bytes_in_memory / 1e6:.0f} MB with copies, but the "
            f"limit is {(memory or 0) / 1e6:.0f} MB; give a `pool` that makes fewer features, or "
            f"more `memory`"
        )
    return features


def _sizes(bench: Bench) -> list[int]:
    """Return the sizes of the training subsets; `DataError` if there are too few sizes."""
    rows = min(int(fold.fit.sum()) for folds in bench.repeats for fold in folds)
    classes = len(bench.problem.targets.classes)
    sizes = grid_sizes(rows, classes)
    if len(sizes) < _LEAST_SIZES:
        least = LEAST_PER_CLASS * classes * 2 ** (_LEAST_SIZES - 1)
        raise DataError(
            f"only {rows} training images of {classes} classes are available, but a learning "
            f"curve of {_LEAST_SIZES} sizes needs {least}; add images"
        )
    # Folds differ by a few rows: the largest size is one that every fold has.
    return [*sizes[:-1], bench.images]


def grid_sizes(n_rows: int, n_classes: int) -> list[int]:
    """Return the sizes of the training subsets, each about half of the next, in ascending order.

    Parameters
    ----------
    n_rows : int
        Number of training rows, which is the largest size.
    n_classes : int
        Number of classes; every subset has `LEAST_PER_CLASS` rows of each.

    Returns
    -------
    list of int
    """
    halved = (n_rows // 2**k for k in range(_MOST_SIZES))
    return sorted({size for size in halved if size >= LEAST_PER_CLASS * n_classes} | {n_rows})
