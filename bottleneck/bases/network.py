"""A network as a graph of named layers that can be cut at any of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial

import torch
from torch import fx, nn

from bottleneck.bases.aliases import keras_aliases
from bottleneck.bases.fusing import SHAPE, USERS, is_plain_convolution
from bottleneck.bases.layers import (
    WORDS,
    Layer,
    ancestors,
    axes_of,
    block_ends,
    has_positions,
    last_conv,
    last_inside,
    penultimate,
)
from bottleneck.bases.models import Model
from bottleneck.bases.tracing import (
    Measured,
    assign,
    constants,
    on_meta,
    tensors_of,
    trace,
    with_tensors,
)
from bottleneck.errors import UnknownNameError, UsageError, did_you_mean, is_out_of_memory
from bottleneck.names import find_layers

__all__ = ["Network", "traced"]

_ALL_BLOCKS = "all-blocks"


class Network:
    """The traced graph of a model in evaluation mode. It holds names and shapes, no weights.

    Layers are named as `torchvision.models.feature_extraction.get_graph_node_names` names them,
    except that it takes a convolution with its normalisation and activation for one layer, and this
    for three. A module's name stands for the last layer in it (``layer4`` for ``layer4.2.relu_2``).
    Three words name a layer of every network in the field's manner:

    - ``penultimate``: the classifier's input, or the output of a network without one;
    - ``last_conv``: the last map before it, or the last tokens, that is not a pooled one (a network
      without either has no such layer);
    - ``logits``: the output.

    Parameters
    ----------
    model : Model
        Which.
    image_size : (int, int), optional
        Height and width in pixels of the images that its weights were trained on, if not those of
        the default ones.

    Raises
    ------
    UsageError
        The model's code decides by values, so that it has no one graph.

    Attributes
    ----------
    image_size : (int, int)
        As given, or as the default weights have it.
    layers : dict of str to Layer
        The activations with a row per image, in the order of computation, by name.
    aliases : dict of str to str
        Keras name or word to layer.
    blocks : tuple of str
        The last layer of each block: what ``all-blocks`` stands for.
    constants : dict of str to torch.Tensor
        Tensors that the architecture itself computes and no state dict holds.
    root, graph : torch.nn.Module, torch.fx.Graph
        The model on the meta device, and its operations in the order of computation.
    nodes : dict of str to torch.fx.Node
        All operations but the input, by name, also those that are no layers.
    modules : dict of str to str
        Module to the last layer in it.
    """

    def __init__(self, model: Model, image_size: tuple[int, int] | None = None) -> None:
        self.name = model.name
        self.image_size = image_size or model.transform.crop
        build = partial(model.build, self.image_size)
        try:
            root = on_meta(build)
            self.graph, names = trace(root)
            found = constants(root, self.graph)
            if found:
                # Values that no state dict holds: the model's own constructor computes them.
                root = build()
                self.graph, names = trace(root)
                found = constants(root, self.graph)
        except Exception as error:  # whatever a library's or a package's constructor raises
            if is_out_of_memory(error):
                raise
            raise _untraceable(self.name, error) from error
        self.constants = {key: value.clone() for key, value in found.items()}
        # Without gradients, what modules keep for later can be copied with them.
        self.root = root.to("meta").requires_grad_(requires_grad=False)
        for key, value in self.constants.items():
            assign(self.root, key, value.to("meta"))
        self.nodes: dict[str, fx.Node] = {
            path: node for node, path in names.items() if node.op != "placeholder"
        }
        measured = self._measure(self.image_size)
        if measured.error:
            raise _untraceable(self.name, measured.error)
        self._describe(measured)
        self._sized = {self.image_size: self.layers}

    def alias(self, layer: str) -> str | None:
        """Return the Keras alias of a layer, if it has one."""
        first = next(iter(self.layers[layer].aliases), None)
        return None if first in WORDS else first

    def resolve(self, wanted: str) -> tuple[str, ...]:
        """Return the layers that a name stands for, in the order of computation.

        Parameters
        ----------
        wanted : str
            A layer, an alias, a module, a pattern such as ``block*_pool``, or ``all-blocks``.

        Raises
        ------
        UnknownNameError
            The network has no such layer.
        UsageError
            The name is that of an operation that has no row per image.
        """
        if wanted == _ALL_BLOCKS and self.blocks:
            return self.blocks
        if wanted in self.nodes and wanted not in {*self.layers, *self.aliases}:
            raise UsageError(
                f"layer {wanted!r} of {self.name} is not an activation with a row per image; "
                f"'bottleneck layers {self.name}' lists those that are"
            )
        layers = {name: layer.aliases for name, layer in self.layers.items()}
        if found := find_layers(wanted, layers, patterns=True):
            return found
        words = [_ALL_BLOCKS] if self.blocks else []
        hint = did_you_mean(wanted, (*words, *self.aliases, *self.layers, *self.modules))
        raise UnknownNameError(
            f"no layer {wanted!r} in {self.name}; 'bottleneck layers {self.name}' lists them "
            f"all{hint}"
        )

    def in_order(self, layers: Iterable[str]) -> tuple[str, ...]:
        """Resolve names and return the layers once each, in the order of computation."""
        wanted = {layer for name in layers for layer in self.resolve(name)}
        return tuple(name for name in self.layers if name in wanted)

    def tensors(self, layer: str) -> tuple[str, ...]:
        """Return the names of the parameters and buffers that decide a layer's value, sorted.

        A counter of training batches decides nothing and is left out.
        """
        prefixes = []
        names = set()
        for node in ancestors([self.nodes[layer]]):
            if node.op == "call_module":
                prefixes.append(f"{node.target}.")
            elif node.op == "get_attr":
                names.add(str(node.target))
        for name in tensors_of(self.root):
            if name.startswith(tuple(prefixes)) and not name.endswith("num_batches_tracked"):
                names.add(name)
        return tuple(sorted(names))

    @property
    def dense(self) -> bool:
        """Whether all convolutions mix channels, and have their weights as they are stored."""
        return all(
            is_plain_convolution(module) and not module.groups == module.in_channels > 1
            for module in self.root.modules()
            if isinstance(module, nn.Conv2d)
        )

    def cut(self, layers: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> fx.GraphModule:
        """Return the part of the network that computes `layers`, and nothing behind them.

        Parameters
        ----------
        layers : sequence of str
            Names as `resolve` returns them.
        tensors : mapping of str to torch.Tensor
            At least the weights that `tensors` names for each layer, constants included.

        Returns
        -------
        torch.fx.GraphModule
            Maps a batch (n, 3, height, width) to a dict of layer to activation (n, ...), in
            evaluation mode and without gradients.
        """
        outputs = [self.nodes[layer] for layer in layers]
        wanted = ancestors(outputs)
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        result: dict[str, fx.Node] = {}
        for node in self.graph.nodes:
            if node not in wanted:
                continue
            copies[node] = graph.node_copy(node, copies.__getitem__)
            copies[node].meta[SHAPE] = self._shapes.get(node)
            copies[node].meta[USERS] = len(node.users)
            if node in outputs:
                # A later operation may work in place: hand out what the layer itself computed.
                reused = any(user in wanted for user in node.users)
                result[layers[outputs.index(node)]] = (
                    graph.call_method("clone", (copies[node],)) if reused else copies[node]
                )
        graph.output(result)
        return with_tensors(self.root, graph, tensors)

    def sized(self, image_size: tuple[int, int], needed: Iterable[str]) -> dict[str, Layer]:
        """Return the layers that images of another size have. Nothing is computed.

        Parameters
        ----------
        image_size : (int, int)
            Height and width in pixels.
        needed : iterable of str
            Layers that have to be among them; names as `resolve` returns them.

        Raises
        ------
        UsageError
            One of these cannot be computed at that size.
        """
        if image_size not in self._sized:
            measured = self._measure(image_size)
            self._sized[image_size] = {
                name: replace(
                    layer, shape=measured.shapes[node], multiply_adds=measured.costs[node]
                )
                for name, layer in self.layers.items()
                if (node := self.nodes[name]) in measured.shapes
            }
        found = self._sized[image_size]
        for layer in needed:
            if layer not in found:
                raise UsageError(
                    f"{self.name} cannot compute {self.alias(layer) or layer!r} of images of "
                    f"{_pixels(image_size)} pixels; {self._accepted(layer, image_size)}"
                )
        return found

    def _describe(self, measured: Measured) -> None:
        self._shapes = measured.shapes
        names = {node: name for name, node in self.nodes.items()}
        (output,) = self.graph.find_nodes(op="output")
        (logits, *_) = output.all_input_nodes
        before_logits = penultimate(self.root, self.graph, measured.shapes) or logits
        below = ancestors([before_logits])
        before = {name: node for name, node in self.nodes.items() if node in below}
        shapes = {
            name: measured.shapes[node]
            for name, node in self.nodes.items()
            if node in measured.shapes
        }
        side = max(self.image_size)
        square = measured if (side, side) == self.image_size else self._measure((side, side))
        axes = axes_of(self.root, square.shapes)
        convolved = last_conv(self.root, before, square.shapes, axes)
        meant = zip(WORDS, (convolved, before_logits, logits), strict=True)
        words = {word: names[node] for word, node in meant if node in measured.shapes}
        self.modules = last_inside(shapes)
        keras = {
            alias: layer
            for alias, target in keras_aliases(self.root).items()
            if (layer := self.modules.get(target, target)) in shapes
        }
        self.aliases = keras | words
        self.layers = {}
        for name, shape in shapes.items():
            aliases = tuple(alias for alias, layer in self.aliases.items() if layer == name)
            node = self.nodes[name]
            self.layers[name] = Layer(
                name, aliases, shape, axes.get(node, ""), measured.costs[node]
            )
        ends = block_ends(self.root, before)
        self.blocks = tuple(
            name for name, shape in shapes.items() if name in ends and has_positions(shape)
        )

    def _measure(self, image_size: tuple[int, int]) -> Measured:
        return Measured(self.root, self.graph, image_size)

    def _accepted(self, layer: str, refused: tuple[int, int]) -> str:
        """Say which images a layer can be computed of."""
        node = self.nodes[layer]

        def fits(side: int) -> bool:
            return node in self._measure((side, side)).shapes

        native = max(self.image_size)
        others = [side for side in (native - 64, native - 32, native + 32, 2 * native) if side > 0]
        accepted = [side for side in others if fits(side)]
        if not accepted:
            return (
                f"it takes images of {_pixels(self.image_size)} pixels: leave out `image_size` and "
                f"`keep_aspect`"
            )
        low, high = 0, native
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        if min(refused) < high and all(map(fits, (high + 1, high + 17, native + 1, native + 17))):
            return f"it takes images of {high} x {high} pixels or more: give another `image_size`"
        examples = ", ".join(f"{side} x {side}" for side in accepted)
        return f"it takes images of {examples} pixels, say: give another `image_size`"


def traced(model: Model, image_size: tuple[int, int] | None = None) -> Network:
    """Return `Network`, which this process may have traced before."""
    return _traced(model, image_size or model.transform.crop)


_traced = lru_cache(maxsize=4)(Network)


def _untraceable(name: str, error: Exception) -> UsageError:
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    return UsageError(
        f"{name} cannot be traced as a graph of layers ({type(error).__name__}: {reason}); choose "
        f"another model"
    )


def _pixels(image_size: tuple[int, int]) -> str:
    return f"{image_size[0]} x {image_size[1]}"
