"""Turn the cached features of some layers into advice on what to do next."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import joblib
import numpy as np

from bottleneck.advise.bases import BaseChoice, by_model, choose_base, of_base
from bottleneck.advise.evidence import Depths, Evidence
from bottleneck.advise.gathering import gather_evidence
from bottleneck.advise.scoring import LEAST_PER_CLASS, Bench, Scored, make_bench, score_sizes
from bottleneck.advise.timing import seconds_of, time_fits, try_training
from bottleneck.advise.verdict import Verdict, decide
from bottleneck.arguments import checked, made
from bottleneck.bases.finetuned import digests_of_network, read_finetuned
from bottleneck.cache import Cache
from bottleneck.errors import DataError, counted
from bottleneck.features import Features, check_layers, load_features
from bottleneck.heads import MLP
from bottleneck.heads.prepare import recipe_of
from bottleneck.heads.problem import Progress
from bottleneck.heads.recipes import Recipe
from bottleneck.records import AnySource, FeatureSource, JoinedSource, single_source
from bottleneck.records.record import CacheRecord, Time
from bottleneck.settings import AdviseSettings

__all__ = ["Advice", "advise_on", "grid_sizes"]

_LEAST_SIZES = 3
"""The number of parameters of a power law."""
_MOST_SIZES = 6
_HEAD_REPEATS = 2
"""Repetitions for other heads, because a network takes long to train."""
_WORTH_PROCESSES = 30.0
"""Below this estimate in seconds, starting other processes takes longer than they save."""


@dataclass(frozen=True, kw_only=True)
class Advice(CacheRecord):
    """Advice on what to do next, with its evidence; a file in ``cache/advice/``.

    Attributes
    ----------
    time : str
        When it was computed, in ISO format; in a kept file, when it was given last.
    turn : int
        In a kept file, the place among all that were given, whatever the clock says.
    source : FeatureSource
        The judged features: the last layer, used for the learning curve and for comparing heads.
    clf : str
        The classifier.
    held_out : str
        The images that the scores are computed on, in words.
    evidence : Evidence
        The measurements.
    verdict : Verdict
        The conclusion.
    fit_seconds : dict of str to float
        Seconds that a fit on the images of the learning curve took, by classifier.
    trial : dict of str to float
        The result of `bottleneck.advise.timing.try_training`, if the verdict names a layer to train
        and the network could be tried.
    bases : BaseChoice or None
        Of several bases, the comparison and the one that was chosen, which all else is about.
    """

    SCHEMA: ClassVar[int] = 4

    time: Time
    source: FeatureSource
    clf: str
    held_out: str
    evidence: Evidence
    verdict: Verdict
    fit_seconds: dict[str, float]
    trial: dict[str, float]
    turn: int = 0
    bases: BaseChoice | None = None


@checked
def advise_on(
    cache: Cache | str | Path,
    selections: Sequence[AnySource],
    settings: AdviseSettings | None = None,
    *,
    jobs: int | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    announce: Callable[[int, float], None] | None = None,
    **options: Any,
) -> Advice:
    """Measure what limits a head: the number of images, the layer, the head or the labels.

    Heads are fitted on nested subsets of the training images and judged on held-out images: the
    ``val`` images if there are any, or those that a fine-tuned network was validated on; else folds
    of the training images. Test images and augmented views are not used.
    `bottleneck.advise.verdict.decide` has the rules for the verdict.

    Of several bases, one is chosen first, see `bottleneck.advise.bases`; all else is about that.

    Parameters
    ----------
    cache : Cache, str or Path
        The cache, or its folder.
    selections : sequence of FeatureSource or JoinedSource
        The layers, all of one image set: the result of `bottleneck.select_layers`. Joined layers
        are compared with the last layer, as every layer is; of several bases, the layers of the
        chosen one are.
    settings : AdviseSettings, optional
        The classifier, repetitions and folds.
    jobs : int, optional
        Number of parallel fits; by default as joblib is configured.
    memory : int, optional
        Memory limit in bytes for the features of a layer, see `bottleneck.load_features`.
    progress : callable, optional
        Called with ``"advise"``, the number of fits done and their total; before that, of several
        bases, with ``"bases"``.
    announce : callable, optional
        Called once, after the first fits, with the number of fits and an estimate of the seconds.
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
    check_layers(selections)
    bases = by_model(selections)

    def features_of(layer: AnySource, limit: int | None) -> Features:
        own = layer.with_views(0)
        return _held_out(load_features(cache, own, memory=limit, split=("train", "val")), bases)

    def bench_of(layer: AnySource) -> Bench:
        return make_bench(features_of(layer, memory), recipe, settings)

    choice = None
    if len(bases) > 1:
        choice = _choose_base(cache, bases, recipe, bench_of, jobs=jobs, progress=progress)
        selections = of_base(selections, choice.model)
    depths = Depths([each for each in selections if isinstance(each, FeatureSource)])
    last, joined = depths.last, [each for each in selections if isinstance(each, JoinedSource)]
    layers: list[AnySource] = [*depths.layers, *joined]
    bench = bench_of(last)
    briefly = bench.first(_HEAD_REPEATS)
    sizes = _sizes_for(bench)
    others = _other_heads(recipe)
    total = bench.fits * len(sizes) * len(layers) + briefly.fits * len(others)
    advance = _counter(progress, total)
    plans = [(bench, recipe, sizes), *((briefly, each, sizes[-1:]) for each, _ in others)]
    timed = [time_fits(*plan) for plan in plans]
    unread = {layer: features_of(layer, 0) for layer in layers}
    widths = [each.X.shape[1] / bench.problem.X.shape[1] for each in unread.values()]
    seconds = seconds_of(timed, widths)
    jobs = 1 if seconds < _WORTH_PROCESSES else jobs
    if announce:
        announce(total, seconds / joblib.effective_n_jobs(jobs))
    score = partial(score_sizes, jobs=jobs, advance=advance)
    known = [each.known for each in timed]
    judged, *heads = (score(*plan, known=own) for plan, own in zip(plans, known, strict=True))
    scored = {
        each: judged if each is last else score(bench_of(each), recipe, sizes) for each in layers
    }
    compared = [(*each, own) for each, (own,) in zip(others, heads, strict=True)]
    evidence = gather_evidence(bench, briefly, depths, scored, compared, seed=settings.seed)
    verdict = decide(evidence)
    items = unread[last].images.items
    return Advice(
        time=datetime.now(UTC).isoformat(),
        source=single_source(unread[last].provenance),
        clf=recipe.name,
        held_out=bench.held_out,
        evidence=evidence,
        verdict=verdict,
        fit_seconds={each[1].name: own.longest for each, own in zip(plans, timed, strict=True)},
        trial=try_training(last, verdict.layer, items) if verdict.layer else {},
        bases=choice,
    )


def _choose_base(
    cache: Cache | str | Path,
    bases: Mapping[str, Sequence[FeatureSource]],
    recipe: Recipe,
    bench_of: Callable[[AnySource], Bench],
    *,
    jobs: int | None,
    progress: Progress | None,
) -> BaseChoice:
    """Score the layers of each base with all images, and two of them joined, and choose a base."""
    plain = {
        model: [each.with_views(0) for each in Depths(layers).layers[::-1]]
        for model, layers in bases.items()
    }
    number = sum(map(len, plain.values())) + 1
    advance: Callable[[], None] | None = None

    def score(layer: AnySource) -> tuple[Bench, Scored]:
        nonlocal advance
        bench = bench_of(layer)
        advance = advance or _counter(progress, bench.fits * number, "bases")
        (scored,) = score_sizes(bench, recipe, [bench.images], jobs=jobs, advance=advance)
        return bench, scored

    return choose_base(Cache(cache), plain, recipe, score)


def _held_out(features: Features, models: Iterable[str]) -> Features:
    """Hold out what fine-tuned networks were validated on, as they were trained on all the others.

    All bases are judged on the same images, also those that were not fine-tuned.
    """
    tuned = [model for model in models if digests_of_network(model)]
    if "val" in features.splits or not tuned:
        return features
    judged = [{each["image"] for each in read_finetuned(model).judged} for model in tuned]
    held = np.isin(features.digests, sorted(set.intersection(*judged)))
    if not held.any():
        raise DataError(
            f"{' and '.join(tuned)} were not validated on the same images, so that they cannot be "
            f"compared; fine-tune both with the same `val_share` and `seed`, or choose one"
        )
    return replace(features, splits=np.where(held, "val", features.splits))


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

    Raises
    ------
    DataError
        There are too few rows for three sizes.
    """
    smallest = LEAST_PER_CLASS * n_classes
    halved = (n_rows // 2**k for k in range(_MOST_SIZES))
    sizes = sorted({size for size in halved if size >= smallest} | {n_rows})
    if len(sizes) < _LEAST_SIZES:
        raise DataError(
            f"only {counted(n_rows, 'training image')} of {counted(n_classes, 'class')} can be "
            f"used, but a learning curve of {_LEAST_SIZES} sizes needs "
            f"{smallest * 2 ** (_LEAST_SIZES - 1)}; add images"
        )
    return sizes


def _counter(progress: Progress | None, total: int, stage: str = "advise") -> Callable[[], None]:
    """Return a function that reports one more fit; the report of none is made here."""
    done = count()

    def advance() -> None:
        if progress:
            progress(stage, next(done), total)

    advance()
    return advance


def _sizes_for(bench: Bench) -> list[int]:
    rows = min(int(fold.fit.sum()) for folds in bench.repeats for fold in folds)
    # Folds differ by a few rows: the largest size is one that every fold has.
    return [*grid_sizes(rows, len(bench.problem.targets.classes))[:-1], bench.images]


def _other_heads(recipe: Recipe) -> list[tuple[Recipe, bool]]:
    """Return heads to compare with a head, and whether each is more expressive.

    The network has a larger learning rate and less patience: as good for a comparison, but faster.
    """
    if recipe.name in {"mlp", "knn"}:
        return [(recipe_of(name), False) for name in ("softmax", "lda", "centroid")]
    simpler = [name for name in ("lda", "centroid") if name != recipe.name]
    return [
        (MLP(batch_size=256, patience=5), True),
        (recipe_of("knn"), True),
        *((recipe_of(name), recipe.name == "centroid") for name in simpler),
    ]
