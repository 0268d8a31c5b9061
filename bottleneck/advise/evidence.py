"""Evidence for the advice: the learning curve, layers, heads and confident errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

from bottleneck.advise.curve import LearningCurve, learning_curve
from bottleneck.advise.network import FineTuning
from bottleneck.advise.samples import Estimate
from bottleneck.advise.scoring import Bench, Scored
from bottleneck.heads import MLP
from bottleneck.heads.prepare import recipe_of
from bottleneck.heads.recipes import Recipe
from bottleneck.records import FeatureSource

__all__ = [
    "EARLY",
    "Contrast",
    "Evidence",
    "HeadScore",
    "JudgedLayer",
    "LayerScore",
    "gather",
    "other_heads",
]

EARLY = 0.5
"""Maximum multiply-adds of an early layer, as a fraction of those of the last layer."""
_WORTH, _WORTH_SHARE = 0.01, 0.1
"""A useful gain is at least one point of accuracy and at least a tenth of the error."""
_SHARES = (0.25, 0.5, 1.0)
_CONFIDENT = 4


@dataclass(frozen=True)
class LayerScore:
    """Scores of heads on one layer.

    Attributes
    ----------
    layer, pool : str
        The layer, by its alias if it has one, and its pooling.
    depth : float
        Multiply-adds up to the layer as a fraction of those up to the deepest layer here; for an
        unknown network, the layer's position as a fraction.
    accuracy, log_loss : Estimate
        On held-out images.
    deviation : float
        Standard deviation of the accuracy over the folds.
    curve : LearningCurve
        The learning curve of the layer.
    difference : Estimate or None
        Accuracy minus that of the last layer on the same folds, with an interval corrected for all
        compared layers; None for the last layer itself.
    """

    layer: str
    pool: str
    depth: float
    accuracy: Estimate
    log_loss: Estimate
    deviation: float
    curve: LearningCurve
    difference: Estimate | None

    @property
    def name(self) -> str:
        """The layer, and its pooling if it has one."""
        return self.layer if self.pool == "none" else f"{self.layer} ({self.pool})"


@dataclass(frozen=True)
class Contrast:
    """Comparison of another layer with the last one.

    Attributes
    ----------
    layer : str
        The other layer, by its alias if it has one.
    gain : Estimate
        Gain in accuracy: of both layers together over the last one, or of the last over the other.
    tuning : FineTuning or None
        Fine-tuning of all blocks after the other layer.
    """

    layer: str
    gain: Estimate
    tuning: FineTuning | None


@dataclass(frozen=True)
class HeadScore:
    """Scores of another classifier on the last layer.

    Attributes
    ----------
    clf : str
        The classifier.
    richer : bool
        Whether it is more expressive than the judged head; if not, it is simpler.
    accuracy : Estimate
        On held-out images.
    difference : Estimate
        Accuracy minus that of the judged head on the same folds, with an interval corrected for all
        compared heads.
    """

    clf: str
    richer: bool
    accuracy: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Evidence:
    """Everything that the rules use.

    Attributes
    ----------
    accuracy : Estimate
        On held-out images, with heads on the last layer.
    classes : int
        Number of classes.
    images : int
        Number of training images.
    curve : LearningCurve
        Of the last layer.
    layers : list of LayerScore
        In the order of the network.
    heads : list of HeadScore
        On the last layer.
    joined : Contrast or None
        What another layer adds to the last one; None if there is no other layer. A multiple of the
        other layer's log probabilities is added to those of the last layer; the layer and the
        multiple minimise log loss on all blocks but the judged one. The named layer is the one
        chosen most often.
    rise : Contrast or None
        Gain in accuracy of the last layer over the best early one.
    surest_error : Estimate
        The error among the 25% most confident predictions of each block. It is far below the
        overall error where classes overlap, as confident predictions are far from the class border.
        It is as high as the overall error where labels are wrong at random.
    tuning : FineTuning or None
        The cheapest fine-tuning, of the last block only.
    """

    accuracy: Estimate
    classes: int
    images: int
    curve: LearningCurve
    layers: list[LayerScore]
    heads: list[HeadScore]
    joined: Contrast | None
    rise: Contrast | None
    surest_error: Estimate
    tuning: FineTuning | None

    @property
    def error(self) -> float:
        """The fraction of held-out images that are classified wrongly."""
        return 1 - self.accuracy.value

    @property
    def worth(self) -> float:
        """The smallest useful gain in accuracy."""
        return max(_WORTH, _WORTH_SHARE * self.error)

    @property
    def at_most(self) -> float:
        """The overall error minus the error of the most confident predictions."""
        return max(0.0, self.error - self.surest_error.value)


class JudgedLayer(NamedTuple):
    """A layer and the scores of heads on it.

    Attributes
    ----------
    source : FeatureSource
        The layer.
    depth : float
        See `LayerScore`.
    tuning : FineTuning or None
        Fine-tuning of the layers after it, see `bottleneck.advise.network.Depths.fine_tuning`.
    sizes : list of Scored
        Scores by number of training images; the last are with all images.
    """

    source: FeatureSource
    depth: float
    tuning: FineTuning | None
    sizes: list[Scored]


def other_heads(recipe: Recipe) -> list[tuple[Recipe, bool]]:
    """Return heads to compare with a head, and whether each is more expressive.

    The network has a larger learning rate and less patience: as good for a comparison, but faster.

    Parameters
    ----------
    recipe : Recipe
        The classifier to compare with.

    Returns
    -------
    list of (Recipe, bool)
        Classifiers; True if one is more expressive than `recipe`.
    """
    if recipe.name in {"mlp", "knn"}:
        return [(recipe_of(name), False) for name in ("softmax", "lda", "centroid")]
    simpler = [name for name in ("lda", "centroid") if name != recipe.name]
    return [
        (MLP(batch_size=256, patience=5), True),
        (recipe_of("knn"), True),
        *((recipe_of(name), recipe.name == "centroid") for name in simpler),
    ]


def gather(
    bench: Bench,
    layers: Sequence[JudgedLayer],
    last: JudgedLayer,
    heads: Sequence[tuple[Recipe, bool, Scored]],
    briefly: Bench,
    *,
    seed: int,
) -> Evidence:
    """Compare layers with the last layer, and heads with the judged head.

    Parameters
    ----------
    bench : Bench
        The rows and folds.
    layers : sequence of JudgedLayer
        In the order of the network, including `last`.
    last : JudgedLayer
        The layer that is judged.
    heads : sequence of (Recipe, bool, Scored)
        The result of `other_heads`, with scores.
    briefly : Bench
        The repetitions used for these heads.
    seed : int
        Seed, as for `learning_curve`.

    Returns
    -------
    Evidence
    """
    scores = [_layer_score(bench, each, last, len(layers) - 1, seed) for each in layers]
    (own,) = (each for each in scores if each.difference is None)
    judged = briefly.accuracy(last.sizes[-1])
    return Evidence(
        accuracy=own.accuracy,
        classes=len(bench.problem.targets.classes),
        images=bench.images,
        curve=own.curve,
        layers=scores,
        heads=[
            HeadScore(
                clf=recipe.name,
                richer=richer,
                accuracy=briefly.accuracy(scored).estimate().share(),
                difference=(briefly.accuracy(scored) - judged).estimate(len(heads)),
            )
            for recipe, richer, scored in heads
        ],
        joined=_joined(bench, layers, last),
        rise=_rise(bench, layers, last),
        surest_error=_confident_error(bench, last.sizes[-1]),
        tuning=last.tuning,
    )


def _layer_score(
    bench: Bench, layer: JudgedLayer, last: JudgedLayer, others: int, seed: int
) -> LayerScore:
    curve, accuracy = learning_curve(bench, layer.sizes, seed=seed), bench.accuracy(layer.sizes[-1])
    apart = accuracy - bench.accuracy(last.sizes[-1])
    return LayerScore(
        layer=layer.source.layer_name,
        pool=layer.source.pool,
        depth=layer.depth,
        accuracy=curve.points[-1].accuracy,
        log_loss=curve.points[-1].log_loss,
        deviation=accuracy.deviation,
        curve=curve,
        difference=None if layer is last else apart.estimate(others),
    )


def _rise(bench: Bench, layers: Sequence[JudgedLayer], last: JudgedLayer) -> Contrast | None:
    early = [each for each in layers if each.depth <= EARLY]
    if not early:
        return None
    best = max(early, key=lambda each: bench.accuracy(each.sizes[-1]).mean)
    gain = bench.accuracy(last.sizes[-1]) - bench.accuracy(best.sizes[-1])
    return Contrast(best.source.layer_name, gain.estimate(), best.tuning)


def _joined(bench: Bench, layers: Sequence[JudgedLayer], last: JudgedLayer) -> Contrast | None:
    others = [each for each in layers if each.source.layer != last.source.layer]
    if not others:
        return None
    own = last.sizes[-1].log_probabilities
    joined = (
        own + share * each.sizes[-1].log_probabilities for each in others for share in _SHARES
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

    found = bench.over_blocks(gain).estimate()
    named = others[chosen.argmax()]
    return Contrast(named.source.layer_name, found, named.tuning)


def _confident_error(bench: Bench, scored: Scored) -> Estimate:
    right = bench.right(scored.log_probabilities)
    confidence = scored.log_probabilities.max(axis=2)

    def error(repeat: int, block: np.ndarray) -> float:
        order = np.argsort(-confidence[repeat, block], kind="stable")
        most = block[order[: max(1, len(block) // _CONFIDENT)]]
        return float(1 - right[repeat, most].mean())

    return bench.over_blocks(error).estimate().share()
