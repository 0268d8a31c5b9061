"""What a model is: an architecture, its weights and the preprocessing that belongs to them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bottleneck.bases.transforms import Transform

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Model", "PretrainedWeights", "StateDict"]

StateDict = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights that a library offers for a model.

    Attributes
    ----------
    load : callable
        Returns the state dict; raises `OSError` where it can be had neither locally nor from the
        network.
    transform : Transform
        The preprocessing that belongs to these weights.
    place : str
        Where a local copy is looked for.
    file : str
        The name under which the library publishes them, if it is one file.
    top1 : float, optional
        Accuracy on ImageNet in percent, as the source of the weights publishes it.
    """

    load: Callable[[], StateDict]
    transform: Transform
    place: str
    file: str = ""
    top1: float | None = None


@dataclass(frozen=True)
class Model:
    """A model by its name.

    Another package adds a model by an entry point in the group ``bottleneck.bases``. The entry
    point's name is the model's, its object a callable without arguments that returns the `Model`::

        [project.entry-points."bottleneck.bases"]
        my_net = "my_package.bases:my_net"

    Attributes
    ----------
    name : str
        What the user types.
    architecture : str
        Source library and its name for the architecture, such as ``torchvision:vgg16``; part of the
        fingerprint.
    build : callable
        Takes the height and width in pixels of the images that the weights were trained on, which
        most networks ignore. Returns the network with weights of any value.
    transform : Transform
        The preprocessing for weights that are not among `weights`.
    weights : mapping of str to PretrainedWeights
        By the library's name for them; the first one is the default. There may be none.
    default_layer : str
        A layer's name or alias: what is extracted where none is asked for.
    parameters : int, optional
        How many there are, for the table of models.
    """

    name: str
    architecture: str
    build: Callable[[tuple[int, int]], "nn.Module"]
    transform: Transform
    weights: Mapping[str, PretrainedWeights] = field(default_factory=dict)
    default_layer: str = "penultimate"
    parameters: int | None = None

    @property
    def library(self) -> str:
        """The source library."""
        return self.architecture.partition(":")[0]
