"""Turn the cached features of some layers into advice on what to do next."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, count, product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from bottleneck.advise.curve import CurvePoint, Estimate, LearningCurve, Samples, forecast_gain
from bottleneck.advise.evidence import (
    EARLY,
    Contrast,
    Depths,
    Evidence,
    HeadScore,
    LayerScore,
    gain_of_choice,
)
from bottleneck.advise.scoring import LEAST_PER_CLASS, Bench, Scored, make_bench, score_sizes
from bottleneck.advise.verdict import Verdict, decide
from bottleneck.arguments import checked, made
from bottleneck.cache import Cache
from bottleneck.errors import DataError
from bottleneck.features import check_layers, load_features
from bottleneck.heads import MLP
from bottleneck.heads.prepare import recipe_of
from bottleneck.heads.problem import Progress
from bottleneck.heads.recipes import Recipe
from bottleneck.records import FeatureSource
from bottleneck.settings import AdviseSettings

__all__ = ["Advice", "advise_on", "grid_sizes"]

_LEAST_SIZES = 3
"""The number of parameters of a power law."""
_MOST_SIZES = 6
_HEAD_REPEATS = 2
"""Repetitions for other heads, because a network takes long to train."""
_SHARES = (0.25, 0.5, 1.0)
_CONFIDENT = 4


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
        """Return the advice in JSON types.

        Returns
        -------
        dict of str to Any
            Fields by name, nested objects as dictionaries.
        """
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
    check_layers(selections)
    depths = Depths(selections)
    last = depths.last

    def bench_of(layer: FeatureSource) -> Bench:
        seen = ("train", "val")
        features = load_features(cache, layer.with_views(0), memory=memory, split=seen)
        return make_bench(features, recipe, settings)

    bench = bench_of(last)
    briefly = bench.first(_HEAD_REPEATS)
    rows = min(int(fold.fit.sum()) for folds in bench.repeats for fold in folds)
    # Folds differ by a few rows: the largest size is one that every fold has.
    sizes = [*grid_sizes(rows, len(bench.problem.targets.classes))[:-1], bench.images]
    others = _other_heads(recipe)
    total = bench.fits * len(sizes) * len(depths.layers) + briefly.fits * len(others)
    done = count()

    def advance() -> None:
        if progress:
            progress("advise", next(done), total)

    advance()
    score = partial(score_sizes, jobs=jobs, advance=advance)
    scored = {
        each: score(bench if each is last else bench_of(each), recipe, sizes)
        for each in depths.layers
    }
    heads = [(each, richer, score(briefly, each, sizes[-1:])[0]) for each, richer in others]
    evidence = _gather(bench, depths, scored, heads, settings.seed)
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
            f"only {n_rows} training images of {n_classes} classes are available, but a learning "
            f"curve of {_LEAST_SIZES} sizes needs {smallest * 2 ** (_LEAST_SIZES - 1)}; add images"
        )
    return sizes


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


def _gather(
    bench: Bench,
    depths: Depths,
    scored: Mapping[FeatureSource, Sequence[Scored]],
    heads: Sequence[tuple[Recipe, bool, Scored]],
    seed: int,
) -> Evidence:
    """Compare layers with the last layer, and heads with the judged head.

    `scored` has the layers in the order of the network, with scores by number of training images,
    the last with all images; `heads` has the first repetitions of `_other_heads`.
    """
    last, briefly = depths.last, bench.first(_HEAD_REPEATS)
    shape = bench.problem.X.shape[1], len(bench.problem.targets.classes)
    final = {layer: sizes[-1] for layer, sizes in scored.items()}
    accuracies = {layer: bench.accuracy(each) for layer, each in final.items()}
    judged = briefly.accuracy(final[last])

    def contrast(layer: FeatureSource, gain: Samples) -> Contrast:
        return Contrast(layer.layer_name, gain.estimate(), depths.fine_tuning(layer, *shape))

    def layer_score(layer: FeatureSource) -> LayerScore:
        curve = _learning_curve(bench, scored[layer], seed)
        apart = accuracies[layer] - accuracies[last]
        return LayerScore(
            layer=layer.layer_name,
            pool=layer.pool,
            depth=depths.share(layer),
            accuracy=curve.points[-1].accuracy,
            log_loss=curve.points[-1].log_loss,
            deviation=float(accuracies[layer].values.std(ddof=1)),
            curve=curve,
            difference=None if layer is last else apart.estimate(len(scored) - 1),
        )

    head_scores, head_gains = [], []
    for recipe, richer, each in heads:
        accuracy = briefly.accuracy(each)
        head_gains.append(accuracy - judged)
        difference = head_gains[-1].estimate(len(heads))
        head_scores.append(HeadScore(recipe.name, richer, accuracy.estimate().share(), difference))
    layers = {layer: layer_score(layer) for layer in scored}
    others = [layer for layer in scored if layer.layer != last.layer]
    early = [layer for layer in scored if depths.share(layer) <= EARLY]
    best = max(early, key=lambda each: accuracies[each].values.mean(), default=None)
    return Evidence(
        accuracy=layers[last].accuracy,
        classes=shape[1],
        images=bench.images,
        curve=layers[last].curve,
        layers=list(layers.values()),
        heads=head_scores,
        joined=contrast(*_joined(bench, final, last, others)) if others else None,
        rise=contrast(best, accuracies[last] - accuracies[best]) if best else None,
        surest_error=_confident_error(bench, final[last]),
        tuning=depths.fine_tuning(last, *shape),
        layer_choice=gain_of_choice(
            [each - accuracies[last] for layer, each in accuracies.items() if layer is not last]
        ),
        head_choice=gain_of_choice(head_gains),
    )


def _learning_curve(bench: Bench, scored: Sequence[Scored], seed: int) -> LearningCurve:
    """Build a learning curve from scores at three or more sizes."""
    sizes = np.array([each.trained.mean() for each in scored])
    accuracies = [bench.accuracy(each) for each in scored]
    law, forecasts = forecast_gain(sizes, accuracies, bench.images, seed)
    points = []
    for size, each, samples in zip(sizes, scored, accuracies, strict=True):
        accuracy, log_loss = samples.estimate().share(), bench.log_loss(each).estimate()
        trained, train_loss = float(each.train_accuracy.mean()), float(each.train_log_loss.mean())
        gap = trained - accuracy.value
        points.append(CurvePoint(round(size), accuracy, log_loss, trained, train_loss, gap))
    return LearningCurve(points, law, forecasts)


def _joined(
    bench: Bench,
    final: Mapping[FeatureSource, Scored],
    last: FeatureSource,
    others: Sequence[FeatureSource],
) -> tuple[FeatureSource, Samples]:
    """Return the layer that adds most to the last one, and what each block gains from adding it."""
    own = final[last].log_probabilities
    joined = (
        own + share * final[each].log_probabilities for each, share in product(others, _SHARES)
    )
    told = [
        (bench.losses(log_softmax(scores, axis=2)), bench.right(scores))
        for scores in chain([own], joined)
    ]
    losses, right = map(np.stack, zip(*told, strict=True))
    chosen = np.zeros(len(others), dtype=int)

    def gain(repeat: int, block: np.ndarray) -> float:
        best = np.delete(losses[:, repeat], block, axis=1).mean(axis=1).argmin()
        if best:
            chosen[(best - 1) // len(_SHARES)] += 1
        return float(right[best, repeat, block].mean() - right[0, repeat, block].mean())

    gains = bench.over_blocks(gain)
    return others[int(chosen.argmax())], gains


def _confident_error(bench: Bench, scored: Scored) -> Estimate:
    right = bench.right(scored.log_probabilities)
    confidence = scored.log_probabilities.max(axis=2)

    def error(repeat: int, block: np.ndarray) -> float:
        order = np.argsort(-confidence[repeat, block], kind="stable")
        most = block[order[: max(1, len(block) // _CONFIDENT)]]
        return float(1 - right[repeat, most].mean())

    return bench.over_blocks(error).estimate().share()
