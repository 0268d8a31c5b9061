"""What the learning curve, layers, heads and confident errors say of a head."""

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
"""An early layer takes at most this share of the multiply-adds of the last."""
_WORTH, _WORTH_SHARE = 0.01, 0.1
"""A gain is useful from a point of accuracy on, and from a tenth of the error on."""
_SHARES = (0.25, 0.5, 1.0)
_CONFIDENT = 4


@dataclass(frozen=True)
class LayerScore:
    """What heads reach on one layer.

    Attributes
    ----------
    layer, pool : str
        The layer by its alias, if it has one, and how it is pooled.
    depth : float
        Share of the multiply-adds of the deepest layer here; of the layers, where the network is
        not known.
    accuracy, log_loss : Estimate
        Of held-out images, by heads on all others.
    deviation : float
        Of the accuracy over the folds.
    curve : LearningCurve
        By the number of images, the gap to those fitted on, and what more are expected to bring.
    difference : Estimate or None
        Of the accuracy, less that of the last layer on the same folds, as one of the layers that
        are all compared with it; None of the last layer itself.
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
        """The layer, and how it is pooled if it is."""
        return self.layer if self.pool == "none" else f"{self.layer} ({self.pool})"


@dataclass(frozen=True)
class Contrast:
    """What sets another layer apart from the last one.

    Attributes
    ----------
    layer : str
        The other one, by its alias if it has one.
    gain : Estimate
        In accuracy: of the two joined, or of the last one, less that of the weaker.
    tuning : FineTuning or None
        That of all layers after it.
    """

    layer: str
    gain: Estimate
    tuning: FineTuning | None


@dataclass(frozen=True)
class HeadScore:
    """What another head reaches on the last layer.

    Attributes
    ----------
    clf : str
        The classifier.
    richer : bool
        Whether it can tell apart what the head judged cannot; if not, it is a simpler one.
    accuracy : Estimate
        Of held-out images.
    difference : Estimate
        Of the accuracy, less that of the head judged on the same folds, as one of several heads
        that are compared with it.
    """

    clf: str
    richer: bool
    accuracy: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Evidence:
    """All that the rules look at.

    Attributes
    ----------
    accuracy : Estimate
        Of images held out, by heads on the last layer fitted on all others.
    classes : int
        How many there are.
    images : int
        Training images.
    curve : LearningCurve
        Of the last layer.
    layers : list of LayerScore
        In the network's order.
    heads : list of HeadScore
        On the last layer.
    joined : Contrast or None
        What another layer adds to the last one; None where there is no other one. To the last
        layer's log probabilities a multiple of another's is added; which layer and which multiple
        says the log loss of all blocks but the one that is judged. The layer named is the one that
        was chosen most often.
    rise : Contrast or None
        By how much the accuracy of the last layer is above that of the best early one.
    surest_error : Estimate
        The error among the 25% most confident predictions of each block. Where classes overlap,
        these are far from their border, and it is far below the error of all. Labels that are
        wrong at random are so for any prediction, and it is as high.
    tuning : FineTuning or None
        The cheapest one, that of the last block.
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
        """The share of held-out images that got another class."""
        return 1 - self.accuracy.value

    @property
    def worth(self) -> float:
        """The least gain in accuracy that is useful."""
        return max(_WORTH, _WORTH_SHARE * self.error)

    @property
    def at_most(self) -> float:
        """The error less what even the most confident predictions have of it."""
        return max(0.0, self.error - self.surest_error.value)


class JudgedLayer(NamedTuple):
    """A layer, and what heads on it say.

    Attributes
    ----------
    source : FeatureSource
        The layer.
    depth : float
        See `LayerScore`.
    tuning : FineTuning or None
        That of the layers after it, see `bottleneck.advise.network.Depths.fine_tuning`.
    sizes : list of Scored
        By the number of images fitted on; the last are fitted on all.
    """

    source: FeatureSource
    depth: float
    tuning: FineTuning | None
    sizes: list[Scored]


def other_heads(recipe: Recipe) -> list[tuple[Recipe, bool]]:
    """Return heads to compare one with, and whether each is richer than that one.

    A network with larger steps and less patience does as well in a comparison, and sooner.

    Parameters
    ----------
    recipe : Recipe
        The classifier to compare with.

    Returns
    -------
    list of (Recipe, bool)
        Classifiers; True where one is richer than `recipe`.
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
    """Compare layers and heads with the last layer and the head judged.

    Parameters
    ----------
    bench : Bench
        The rows.
    layers : sequence of JudgedLayer
        In the network's order, of which `last` is one.
    last : JudgedLayer
        The layer that is judged.
    heads : sequence of (Recipe, bool, Scored)
        Of `other_heads`.
    briefly : Bench
        The repetitions in which these were tried.
    seed : int
        That of `learning_curve`.

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
