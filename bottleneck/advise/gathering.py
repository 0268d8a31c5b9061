"""Turn the scores of layers and heads into the evidence that a verdict rests on."""

from collections.abc import Mapping, Sequence
from itertools import chain, product

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
from bottleneck.advise.scoring import Bench, Scored
from bottleneck.heads.recipes import Recipe
from bottleneck.records import AnySource, FeatureSource, JoinedSource

__all__ = ["gather_evidence"]

_SHARES = (0.25, 0.5, 1.0)
_CONFIDENT = 4


def gather_evidence(
    bench: Bench,
    briefly: Bench,
    depths: Depths,
    scored: Mapping[AnySource, Sequence[Scored]],
    heads: Sequence[tuple[Recipe, bool, Scored]],
    *,
    seed: int,
) -> Evidence:
    """Compare layers with the last layer, and heads with the judged head.

    `scored` has the layers in the order of the network, then joined ones, with scores by number of
    training images, the last with all images; `heads` has other heads and whether they are more
    expressive.

    Parameters
    ----------
    bench, briefly : Bench
        The rows of the last layer, with all repetitions and with those of other heads.
    depths, scored, heads : Depths, mapping, sequence
        The layers, and the scores of layers and heads.
    seed : int
        Seed of bootstrap draws.

    Returns
    -------
    Evidence
    """
    last = depths.last
    shape = bench.problem.X.shape[1], len(bench.problem.targets.classes)
    final = {layer: sizes[-1] for layer, sizes in scored.items()}
    accuracies = {layer: bench.accuracy(each) for layer, each in final.items()}
    judged = briefly.accuracy(final[last])

    def contrast(layer: FeatureSource, gain: Samples) -> Contrast:
        return Contrast(
            layer.layer_name, gain.estimate().difference(), depths.fine_tuning(layer, *shape)
        )

    def layer_score(layer: AnySource) -> LayerScore:
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
            difference=None if layer is last else apart.estimate(len(scored) - 1).difference(),
            joined=isinstance(layer, JoinedSource),
        )

    head_scores, head_gains = [], []
    for recipe, richer, each in heads:
        accuracy = briefly.accuracy(each)
        head_gains.append(accuracy - judged)
        difference = head_gains[-1].estimate(len(heads)).difference()
        head_scores.append(HeadScore(recipe.name, richer, accuracy.estimate().share(), difference))
    layers = {layer: layer_score(layer) for layer in scored}
    single = [layer for layer in scored if isinstance(layer, FeatureSource)]
    others = [layer for layer in single if layer.layer != last.layer]
    early = [layer for layer in single if depths.share(layer) <= EARLY]
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
        confident_error=_confident_error(bench, final[last]),
        tuning=depths.fine_tuning(last, *shape),
        layer_choice=gain_of_choice(
            [each - accuracies[last] for layer, each in accuracies.items() if layer is not last]
        ),
        head_choice=gain_of_choice(head_gains),
        grouped=bench.problem.named,
    )


def _learning_curve(bench: Bench, scored: Sequence[Scored], seed: int) -> LearningCurve:
    """Build a learning curve from scores at three or more sizes, if they differ."""
    sizes = np.array([each.trained.mean() for each in scored])
    accuracies = [bench.accuracy(each) for each in scored]
    law, forecasts = forecast_gain(sizes, accuracies, bench.images, seed)
    points = []
    _, different = np.unique(sizes, return_index=True)
    for place in different:
        size, each, samples = sizes[place], scored[place], accuracies[place]
        accuracy, log_loss = samples.estimate().share(), bench.log_loss(each).estimate()
        trained, train_loss = float(each.train_accuracy.mean()), float(each.train_log_loss.mean())
        gap = trained - accuracy.value
        points.append(CurvePoint(round(size), accuracy, log_loss, trained, train_loss, gap))
    return LearningCurve(points, law, forecasts)


def _joined(
    bench: Bench,
    final: Mapping[AnySource, Scored],
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
