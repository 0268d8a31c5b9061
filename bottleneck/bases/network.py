"""A network as a graph of named layers that can be cut after any of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial

import torch
from torch import fx, nn

from bottleneck.arguments import modules_of
from bottleneck.bases.aliases import keras_aliases
from bottleneck.bases.building import built_for, resampled
from bottleneck.bases.fusing import is_plain_convolution
from bottleneck.bases.graphs import ancestors, tensors_at
from bottleneck.bases.hooking import Hooked
from bottleneck.bases.layers import Layer, accepted_sizes, describe, embedding_of
from bottleneck.bases.models import Model, StateDict
from bottleneck.bases.naming import NamedLayers
from bottleneck.bases.tracing import Traced
from bottleneck.errors import UsageError, reworded

__all__ = ["Network", "traced"]


class Network(NamedLayers):
    """The traced graph of a model in evaluation mode, with names and shapes but no weights.

    Layers have the names of `torchvision.models.feature_extraction.get_graph_node_names`, except
    that a convolution with its normalisation and activation is three layers here and one there. A
    module's name means its last layer (``layer4`` for ``layer4.2.relu_2``). The last layer of a
    block is ``block.N`` by number, from the first (0) or the last one (-1), and ``block.-4:`` means
    those of the last four. These words name a layer of every network:

    - ``penultimate``: the classifier's input, or the output of a network without one;
    - ``last_conv``: the last map, or the last tokens, before global pooling (a network with neither
    has no such layer);
    - ``logits``: the output;
    - ``embedding``: what its authors compare images by. For a network without a classifier it is
      the output, such as CLIP's projection, SigLIP's pooled output or DINO's class token (also
      where timm averages patches); for a classifier, its input.

    Parameters
    ----------
    model : Model
        The model to trace.
    trained_on : (int, int), optional
        Height and width in pixels of the images that the weights were trained on; by default that
        of the default weights.
    image_size : (int, int), optional
        Height and width of the images to compute, if they differ. A network that is built for one
        size, such as a vision transformer, is built for this one. Others are not changed, and
        `sized` tells what they support.

    Raises
    ------
    UsageError
        The model's control flow depends on values, so it cannot be traced as one graph.

    Attributes
    ----------
    image_size : (int, int)
        The size that the weights were trained on, or that the network is built for.
    layers : dict of str to Layer
        Activations with one row per image, by name, in the order of computation.
    aliases : dict of str to str
        Keras name or word to layer.
    blocks : tuple of str
        The last layer of each block, which ``all-blocks`` means.
    more_names : dict of str to list of str
        Layer to further names that are not in `aliases`: those of blocks by number, ``block.0`` and
        ``block.-12``, and ``embedding``.
    constants : dict of str to torch.Tensor
        Tensors that the architecture computes itself and that are in no state dict.
    root, graph : torch.nn.Module, torch.fx.Graph
        The model on the meta device, and its operations in the order of computation.
    nodes : dict of str to torch.fx.Node
        All operations except the input, by name, including those that are not layers.
    modules : dict of str to str
        Module to its last layer.
    """

    def __init__(
        self,
        model: Model,
        trained_on: tuple[int, int] | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        self.name = model.name
        self._build = model.build
        self._own = self.image_size = trained_on or model.transform.crop
        wanted = image_size or self._own
        self.operations = self._operations(wanted)
        self.image_size = self.operations.image_size
        self.root, self.graph = self.operations.root, self.operations.graph
        self.nodes, self.constants = self.operations.nodes, self.operations.constants
        self._measure = self.operations.measure
        self._tensors_at = cache(partial(tensors_at, self.root))
        measured = self._measure(self.image_size)
        shapes, square = measured.shapes, self._square_shapes()
        axes, words, self.blocks = describe(self.root, self.graph, self.nodes, shapes, square)
        names = {node: name for name, node in self.nodes.items() if node in shapes}
        known, inside = set(names.values()), modules_of(names.values())
        self.modules = {each: within[-1] for each, within in inside.items() if each not in known}
        keras = {
            alias: self.nodes.get(self.modules.get(target, target))
            for alias, target in keras_aliases(self.root).items()
        }
        self.aliases = {
            alias: names[node] for alias, node in (keras | words).items() if node in names
        }
        self.more_names = {
            name: [f"block.{place}", f"block.{place - len(self.blocks)}"]
            for place, name in enumerate(self.blocks)
        }
        if embedding := embedding_of(self.root, self.aliases, names.values()):
            self.more_names.setdefault(embedding, []).append("embedding")
        self.layers = {
            name: Layer(
                name,
                tuple(alias for alias, layer in self.aliases.items() if layer == name),
                shapes[node],
                axes.get(node, ""),
                measured.costs[node],
            )
            for node, name in names.items()
        }

    def _operations(self, wanted: tuple[int, int]) -> Traced | Hooked:
        """Trace the model; if that fails, run it as it is."""
        build = partial(built_for, self._build, self._own, wanted)

        def failed(error: Exception) -> UsageError:
            if isinstance(error, UsageError):
                return UsageError(f"{self.name} cannot be used: {error}")
            remedy = "choose another model" if wanted == self._own else "leave out `image_size`"
            return UsageError(
                f"{self.name} cannot be run on images of {wanted[0]} x {wanted[1]} pixels "
                f"({_told(error)}); {remedy}"
            )

        with reworded(failed):  # whatever a package's constructor raises
            try:
                return _traced(build, self._own)
            except UsageError:
                raise
            except Exception as error:  # noqa: BLE001 - a model's own code, run with stand-ins
                return Hooked(build, self._own, _told(error))

    def _square_shapes(self) -> Mapping[fx.Node, tuple[int, ...]]:
        """Return shapes for square images, also of a network that is built for another size."""
        square = (max(self.image_size),) * 2
        measured = self._measure(square)
        if not measured.error:
            return measured.shapes
        other = self._operations(square)
        shapes = other.measure(square).shapes
        return {
            node: shapes[other.nodes[name]]
            for name, node in self.nodes.items()
            if name in other.nodes and other.nodes[name] in shapes
        }

    def at_size(self, state: StateDict) -> StateDict:
        """Return weights for the network's image size, with position embeddings resampled.

        Parameters
        ----------
        state : dict of str to torch.Tensor
            Weights for this size, or for the one that they were trained on.

        Returns
        -------
        dict of str to torch.Tensor
            The same dict, if nothing depends on the size.
        """
        expected = self.root.state_dict()
        return resampled(state, expected, self._build, self._own, self.image_size)

    @property
    def untraced(self) -> str:
        """The reason why the network cannot be traced and is run as it is; else empty.

        Its layers are then what its modules return; operations are not fused, and the activations
        between frozen and trained layers cannot be cached.
        """
        return self.operations.reason

    def tensors(self, layer: str) -> tuple[str, ...]:
        """Return the names of the parameters and buffers that affect a layer's value, sorted.

        Parameters
        ----------
        layer : str
            A key of `layers`.

        Returns
        -------
        tuple of str

        Raises
        ------
        KeyError
            The network has no such layer.
        """
        needed = ancestors([self.nodes[layer]])
        return tuple(sorted({name for node in needed for name in self._tensors_at(node)}))

    @property
    def dense(self) -> bool:
        """Whether all convolutions mix channels and use their stored weights."""
        return all(
            is_plain_convolution(module) and not module.groups == module.in_channels > 1
            for module in self.root.modules()
            if isinstance(module, nn.Conv2d)
        )

    def cut(self, layers: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> nn.Module:
        """Return the part of the network that computes `layers`, and nothing after them.

        Parameters
        ----------
        layers : sequence of str
            Layer names from `resolve`.
        tensors : mapping of str to torch.Tensor
            At least the weights in `tensors` of each layer, constants included.

        Returns
        -------
        torch.nn.Module
            Maps a batch (n, 3, height, width) to a dict of layer to activation (n, ...), in
            evaluation mode and without gradients.
        """
        outputs = {layer: self.nodes[layer] for layer in layers}
        return self.operations.module(outputs, tensors)

    def sized(self, image_size: tuple[int, int], needed: Mapping[str, str]) -> dict[str, Layer]:
        """Return the layers for images of another size, without computing them.

        Parameters
        ----------
        image_size : (int, int)
            Height and width in pixels.
        needed : mapping of str to str
            Layers that must be included, and the names that errors show; from `named`.

        Returns
        -------
        dict of str to Layer
            Layers that support that size, in the order of computation.

        Raises
        ------
        UsageError
            One of `needed` does not support that size.
        """
        measured = self._measure(image_size)
        found = {
            name: replace(layer, shape=measured.shapes[node], multiply_adds=measured.costs[node])
            for name, layer in self.layers.items()
            if (node := self.nodes[name]) in measured.shapes
        }
        for layer, shown in needed.items():
            if layer not in found:
                sizes = accepted_sizes(partial(self._fits, layer), self.image_size, image_size)
                raise UsageError(
                    f"{self.name} cannot compute {shown!r} for images of {image_size[0]} x "
                    f"{image_size[1]} pixels; {sizes}"
                )
        return found

    def _fits(self, layer: str, side: int) -> bool:
        return self.nodes[layer] in self._measure((side, side)).shapes


def _traced(build: Callable[[], nn.Module], image_size: tuple[int, int]) -> Traced:
    """Trace a model, and try the result."""
    found = Traced(build, image_size)
    if error := found.measure(found.image_size).error:
        raise error
    return found


def _told(error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {reason}"


traced = lru_cache(maxsize=4)(Network)
"""Returns a `Network`, cached for models traced before in this process."""
