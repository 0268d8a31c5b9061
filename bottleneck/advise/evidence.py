"""What the verdict rests on: scores of layers and heads, and the cost of fine-tuning."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bottleneck.advise.curve import Estimate, LearningCurve, Samples
from bottleneck.bases import find_model
from bottleneck.errors import BottleneckError, UsageError
from bottleneck.records import AnySource, FeatureSource

if TYPE_CHECKING:
    from bottleneck.bases.network import Network

__all__ = [
    "EARLY",
    "Contrast",
    "Depths",
    "Evidence",
    "FineTuning",
    "HeadScore",
    "LayerScore",
    "gain_of_choice",
]

EARLY = 0.5
"""Maximum multiply-adds of an early layer, as a fraction of those of the last layer."""
_WORTH, _WORTH_SHARE = 0.01, 0.1
"""A useful gain is at least one point of accuracy and at least a tenth of the error."""
_TRAINED = 1 / 3
"""Least multiply-adds of the blocks to train where nothing else tells where to start, as a fraction
of those of the last layer."""
_BACKWARD = 3
"""Cost of a forward and a backward pass, in forward passes."""


@dataclass(frozen=True)
class FineTuning:
    """Where fine-tuning starts, and its cost.

    Attributes
    ----------
    layer : str
        First layer to train.
    multiply_adds : int
        Multiply-adds of an epoch, for one image: once for frozen layers, three times for trained
        ones.
    extractions : float
        The same, as a multiple of extracting the image's features.
    head_epochs : float
        The same, as a multiple of one epoch of the head on cached features.
    """

    layer: str
    multiply_adds: int
    extractions: float
    head_epochs: float


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
    joined : bool
        Whether it is several layers, joined side by side.
    """

    layer: str
    pool: str
    depth: float
    accuracy: Estimate
    log_loss: Estimate
    deviation: float
    curve: LearningCurve
    difference: Estimate | None
    joined: bool = False

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
        In the order of the network; joined ones are last.
    heads : list of HeadScore
        On the last layer.
    joined : Contrast or None
        What another layer adds to the last one; None if there is no other layer. A multiple of the
        other layer's log probabilities is added to those of the last layer; the layer and the
        multiple minimise log loss on all blocks but the judged one. The named layer is the one
        chosen most often.
    rise : Contrast or None
        Gain in accuracy of the last layer over the best early one.
    confident_error : Estimate
        The error among the 25% most confident predictions of each block. It is far below the
        overall error where classes overlap, as confident predictions are far from the class border.
        It is as high as the overall error where labels are wrong at random.
    tuning : FineTuning or None
        Fine-tuning of the last blocks, with a third of the multiply-adds.
    layer_choice, head_choice : Estimate or None
        Gain in accuracy of choosing the best of the other layers, or heads, see `gain_of_choice`;
        None if there are not several.
    grouped : bool
        Whether images have groups, which intervals then count.
    """

    accuracy: Estimate
    classes: int
    images: int
    curve: LearningCurve
    layers: list[LayerScore]
    heads: list[HeadScore]
    joined: Contrast | None
    rise: Contrast | None
    confident_error: Estimate
    tuning: FineTuning | None
    layer_choice: Estimate | None = None
    head_choice: Estimate | None = None
    grouped: bool = False

    @property
    def error(self) -> float:
        """The fraction of held-out images that are classified wrongly."""
        return 1 - self.accuracy.value

    @property
    def wrong(self) -> float:
        """Number of training images that are classified wrongly when they are held out."""
        return self.error * self.images

    @property
    def worth(self) -> float:
        """The smallest useful gain in accuracy."""
        return max(_WORTH, _WORTH_SHARE * self.error)

    @property
    def at_most(self) -> float:
        """The overall error minus the error of the most confident predictions."""
        return max(0.0, self.error - self.confident_error.value)


def gain_of_choice(gains: Sequence[Samples]) -> Estimate | None:
    """Return the gain of choosing the best of several for each block on the other blocks.

    The gain of the best is too good, as it was selected on the same blocks. Here, each block is
    scored by what is best on the other blocks of its repetition. That removes most of the
    selection, but not all, as the heads that are compared on the other blocks were fitted on images
    of the scored block: with labels at random and the best of six layers of independent features, a
    gain of 0.10 is left as one of 0.04 with 60 images, and one of 0.055 as 0.02 with 200. Without a
    remainder, it would take folds within each fold, as in `bottleneck.experiments.unselected`.

    Parameters
    ----------
    gains : sequence of Samples
        The gain of each in accuracy.

    Returns
    -------
    Estimate or None
        None if there are not several.
    """
    if len(gains) < 2:  # noqa: PLR2004 - to choose among
        return None
    values = np.stack([each.values for each in gains])
    best = (values.sum(axis=2, keepdims=True) - values).argmax(axis=0)
    chosen = np.take_along_axis(values, best[None], axis=0)[0]
    return replace(gains[0], values=chosen).estimate().difference()


class Depths:
    """The depths of layers in their network.

    Parameters
    ----------
    selections : sequence of FeatureSource
        The layers, all of one model. If the model is unknown, as with imported features, they are
        taken to be equally spaced in the given order.

    Raises
    ------
    UsageError
        There are no layers, or they are of several models.

    Attributes
    ----------
    layers : list of FeatureSource
        The same layers in the order of computation.
    last : FeatureSource
        The deepest of them, in the first of its poolings: the layer that is judged.
    """

    def __init__(self, selections: Sequence[FeatureSource]) -> None:
        models = list(dict.fromkeys(each.model for each in selections))
        if not models:
            raise UsageError("no layers to advise on; give at least one extracted layer")
        if len(models) > 1:
            raise UsageError(
                f"the layers come from several models ({', '.join(models)}); choose one with "
                f"`models`"
            )

        from bottleneck.bases.network import traced

        sizes = {each.layer: each.adjustments.get("image_size") for each in selections}
        self._network: Network | None = None
        self._costs = {layer: place for place, layer in enumerate(sizes, start=1)}
        with suppress(BottleneckError):
            (size, *_) = sizes.values()
            network = traced(find_model(*models), None, size)
            shown = {each.layer: each.layer_name for each in selections}
            known = {name: shown[name] for name in network.layers if name in sizes}
            if len(known) == len(sizes):
                layers = network.sized(sizes[[*known][-1]] or network.image_size, known)
                self._costs = {name: layer.multiply_adds for name, layer in layers.items()}
                self._network = network
        names = list(self._costs)
        self.layers = sorted(selections, key=lambda each: names.index(each.layer))
        self.last = next(each for each in self.layers if each.layer == self.layers[-1].layer)
        self._most = max(1, *(self._costs[each.layer] for each in selections))

    def share(self, selection: AnySource) -> float:
        """Return the multiply-adds up to a layer as a fraction of those up to the deepest one.

        Parameters
        ----------
        selection : FeatureSource or JoinedSource
            A layer of the network; of joined ones, the deepest counts.

        Returns
        -------
        float
            Between 0 and 1.

        Raises
        ------
        KeyError
            The layer is not in the network.
        """
        return max(self._costs[part.layer] for part in selection.parts) / self._most

    def fine_tuning(
        self, after: FeatureSource, n_features: int, n_classes: int
    ) -> FineTuning | None:
        """Return the cost of training everything after a layer; None for an unknown network.

        Parameters
        ----------
        after : FeatureSource
            The last frozen layer. If it is `last`, or no weights follow it, the last blocks are
            trained, with a third of the multiply-adds.
        n_features, n_classes : int
            Sizes of the head.

        Returns
        -------
        FineTuning or None
        """
        if self._network is None:
            return None
        names, total = list(self._costs), self._costs[self.last.layer]
        first = names.index(after.layer) + 1
        if self._costs[after.layer] >= total:
            most = (1 - _TRAINED) * total
            blocks = self._network.blocks
            below = (
                n for n, name in enumerate(names) if name in blocks and self._costs[name] <= most
            )
            first = max(below, default=-1) + 1
        frozen = self._costs[names[first - 1]] if first else 0
        epoch = frozen + _BACKWARD * (total - frozen)
        return FineTuning(
            layer=self._network.alias(names[first]) or names[first],
            multiply_adds=epoch,
            extractions=epoch / max(1, total),
            head_epochs=epoch / (_BACKWARD * n_features * n_classes),
        )
