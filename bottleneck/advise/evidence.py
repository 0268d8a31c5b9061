"""What layers, heads and the rows that are told wrongly say beside the learning curve."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

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
    "HEAD_REPEATS",
    "Contrast",
    "HeadScore",
    "JudgedLayer",
    "LayerScore",
    "OtherHead",
    "confident_error",
    "head_scores",
    "joined_gain",
    "layer_scores",
    "other_heads",
    "rise",
]

EARLY = 0.5
"""An early layer takes at most this share of the multiply-adds of the last."""
HEAD_REPEATS = 2
"""Repetitions in which other heads are tried: a network takes its time."""
_SHARES = (0.25, 0.5, 1.0)
_SUREST = 4


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


class OtherHead(NamedTuple):
    """A head to compare with the one judged, and whether it is richer than that."""

    recipe: Recipe
    richer: bool


class JudgedLayer(NamedTuple):
    """A layer, and what heads on it say.

    Attributes
    ----------
    selection : FeatureSource
        The layer.
    depth : float
        Its share of the multiply-adds of the deepest.
    tuning : FineTuning or None
        That of the layers after it, see `bottleneck.advise.network.Depths.fine_tuning`.
    sizes : list of Scored
        By the number of images fitted on.
    """

    selection: FeatureSource
    depth: float
    tuning: FineTuning | None
    sizes: list[Scored]

    @property
    def scored(self) -> Scored:
        """What heads on all images say."""
        return self.sizes[-1]

    def contrast(self, gain: Estimate) -> Contrast:
        """Return a gain in accuracy as one between this layer and the last."""
        return Contrast(self.selection.layer_name, gain, self.tuning)


def other_heads(recipe: Recipe) -> list[OtherHead]:
    """Return heads to compare one with.

    A network with larger steps and less patience does as well in a comparison, and sooner.
    """
    if recipe.name in {"mlp", "knn"}:
        return [OtherHead(recipe_of(name), richer=False) for name in ("softmax", "lda", "centroid")]
    richer = [
        OtherHead(MLP(batch_size=256, patience=5), richer=True),
        OtherHead(recipe_of("knn"), richer=True),
    ]
    simpler = [name for name in ("lda", "centroid") if name != recipe.name]
    return richer + [OtherHead(recipe_of(name), recipe.name == "centroid") for name in simpler]


def head_scores(
    bench: Bench, heads: Sequence[tuple[OtherHead, Scored]], judged: Scored
) -> list[HeadScore]:
    """Compare heads with the one judged, in the bench's repetitions."""
    own = bench.accuracy(judged)
    return [
        HeadScore(
            clf=other.recipe.name,
            richer=other.richer,
            accuracy=bench.accuracy(scored).estimate().share(),
            difference=(bench.accuracy(scored) - own).estimate(len(heads)),
        )
        for other, scored in heads
    ]


def layer_scores(
    bench: Bench, layers: Sequence[JudgedLayer], last: JudgedLayer, *, seed: int
) -> list[LayerScore]:
    """Compare layers with the last one; the seed is that of `learning_curve`."""
    own = bench.accuracy(last.scored)
    found = []
    for each in layers:
        accuracy = bench.accuracy(each.scored)
        curve = learning_curve(bench, each.sizes, seed=seed)
        found.append(
            LayerScore(
                layer=each.selection.layer_name,
                pool=each.selection.pool,
                depth=each.depth,
                accuracy=curve.points[-1].accuracy,
                log_loss=curve.points[-1].log_loss,
                deviation=accuracy.deviation,
                curve=curve,
                difference=None if each is last else (accuracy - own).estimate(len(layers) - 1),
            )
        )
    return found


def rise(bench: Bench, layers: Sequence[JudgedLayer], last: JudgedLayer) -> Contrast | None:
    """Return by how much the last layer is above the best early one, if there is one."""
    early = [each for each in layers if each.depth <= EARLY]
    if not early:
        return None
    best = max(early, key=lambda each: bench.accuracy(each.scored).mean)
    gain = bench.accuracy(last.scored) - bench.accuracy(best.scored)
    return best.contrast(gain.estimate())


def joined_gain(bench: Bench, layers: Sequence[JudgedLayer], last: JudgedLayer) -> Contrast | None:
    """Return what another layer's head adds to that of the last, in accuracy.

    To the last layer's log probabilities a multiple of another's is added; which layer and which
    multiple says the log loss of all blocks but the one that is judged. The layer named is the one
    that was chosen most often. None where there is no other layer.
    """
    others = [each for each in layers if each.selection.layer != last.selection.layer]
    if not others:
        return None
    gains = np.zeros((len(bench.blocks), len(bench.blocks[0])))
    chosen = np.zeros(len(others), dtype=int)
    for repeat, blocks in enumerate(bench.blocks):
        said = last.scored.log_probabilities[repeat]
        joined = [
            said + share * other.scored.log_probabilities[repeat]
            for other in others
            for share in _SHARES
        ]
        losses = np.stack([_losses(each, bench.codes) for each in (said, *joined)])
        right = np.stack([each.argmax(axis=1) == bench.codes for each in (said, *joined)])
        for number, block in enumerate(blocks):
            best = np.delete(losses, block, axis=1).mean(axis=1).argmin()
            gains[repeat, number] = right[best, block].mean() - right[0, block].mean()
            if best:
                chosen[(best - 1) // len(_SHARES)] += 1
    return others[chosen.argmax()].contrast(bench.by_block(gains).estimate())


def _losses(scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
    highest = scores.max(axis=1, keepdims=True)
    total = highest[:, 0] + np.log(np.exp(scores - highest).sum(axis=1))
    return np.asarray(total - scores[np.arange(len(codes)), codes])


def confident_error(bench: Bench, scored: Scored) -> Estimate:
    """Return the share of wrong rows among the quarter of each block that the head is surest of.

    Where classes overlap, rows far from their border are told rightly, and the share is far below
    that of all rows. Labels that are wrong by chance are so anywhere, and the share is as high.
    """
    shares = np.zeros((len(bench.blocks), len(bench.blocks[0])))
    wrong = scored.log_probabilities.argmax(axis=2) != bench.codes
    sureness = scored.log_probabilities.max(axis=2)
    for repeat, blocks in enumerate(bench.blocks):
        for number, block in enumerate(blocks):
            most = max(1, len(block) // _SUREST)
            surest = block[np.argsort(-sureness[repeat, block], kind="stable")[:most]]
            shares[repeat, number] = wrong[repeat, surest].mean()
    return bench.by_block(shares).estimate().share()
