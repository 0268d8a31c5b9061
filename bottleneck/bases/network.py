"""A network as a graph of named layers that can be cut at any of them."""

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torchvision
from timm.layers import get_notrace_functions, get_notrace_modules
from torch import fx, nn
from torchvision.models.feature_extraction import NodePathTracer

from bottleneck.errors import UnknownNameError, UsageError, did_you_mean

__all__ = ["Network"]

_PROBE = 13
"""A batch size that no model has for a dimension of its own."""
_WEIGHTED = (nn.functional.linear, nn.functional.conv2d)


class Network:
    """The traced graph of a model in evaluation mode. It holds names and shapes, no weights.

    Layers are named as `torchvision.models.feature_extraction.get_graph_node_names` names them;
    a module's name stands for the last operation in it (``layer4`` for ``layer4.2.relu_2``).

    Parameters
    ----------
    name : str
        The model's name, for messages.
    build : callable
        Returns the `torch.nn.Module` with weights of any value.

    Raises
    ------
    UsageError
        The model's code decides by values, so that it has no one graph.

    Attributes
    ----------
    aliases : dict of str to str
        Keras name to layer.
    constants : dict of str to torch.Tensor
        Tensors that the architecture itself computes and no state dict holds.
    """

    def __init__(self, name: str, build: Callable[[], nn.Module]) -> None:
        self.name = name
        try:
            root = _on_meta(build)
            self._graph, names = _trace(root)
            if _constants(root, self._graph):
                # Values that no state dict holds: the model's own constructor computes them.
                root = build()
                self._graph, names = _trace(root)
        except (RuntimeError, TypeError, fx.proxy.TraceError) as error:
            raise _untraceable(name, error) from error
        self.constants = {
            key: value.clone() for key, value in _constants(root, self._graph).items()
        }
        self._root = root.to("meta")
        for constant in self.constants:
            _assign(self._root, constant, self.constants[constant].to("meta"))
        self._nodes: dict[str, fx.Node] = {
            path: node for node, path in names.items() if node.op != "placeholder"
        }
        self.aliases = _aliases(self._root, self._nodes)

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of all layers, in the order in which they are computed."""
        return tuple(self._nodes)

    @property
    def default_layer(self) -> str:
        """The flattened or pooled activation that the classifier at the top sees.

        For networks in VGG's manner, the last pooled map of the conv base.
        """
        if "block5_pool" in self.aliases:
            return self.aliases["block5_pool"]
        names = {node: name for name, node in self._nodes.items()}
        classifier = next(node for node in reversed(self._graph.nodes) if self._has_weights(node))
        node = classifier.all_input_nodes[0]
        while isinstance(self._module(node), nn.Dropout | nn.Identity):
            node = node.all_input_nodes[0]
        return names[node]

    def alias(self, layer: str) -> str | None:
        """Return the Keras alias of a layer, if it has one."""
        return next((alias for alias, name in self.aliases.items() if name == layer), None)

    def resolve(self, layer: str) -> str:
        """Return the layer's own name for a name, an alias or a module's name.

        Raises
        ------
        UnknownNameError
            The network has no such layer.
        """
        if layer in self.aliases:
            return self.aliases[layer]
        if layer in self._nodes:
            return layer
        inside = [name for name in self._nodes if name.startswith(f"{layer}.")]
        if inside:
            return inside[-1]
        hint = did_you_mean(layer, (*self.aliases, *self._nodes))
        raise UnknownNameError(
            f"no layer {layer!r} in {self.name}{hint}; 'bottleneck layers {self.name}' lists them "
            f"all"
        )

    def in_order(self, layers: Iterable[str]) -> tuple[str, ...]:
        """Resolve names and return them once each, in the order of computation."""
        wanted = {self.resolve(layer) for layer in layers}
        return tuple(name for name in self._nodes if name in wanted)

    def tensors(self, layer: str) -> tuple[str, ...]:
        """Return the names of the parameters and buffers that decide a layer's value, sorted.

        A counter of training batches decides nothing and is left out.
        """
        prefixes = []
        names = set()
        for node in _ancestors([self._nodes[layer]]):
            if node.op == "call_module":
                prefixes.append(f"{node.target}.")
            elif node.op == "get_attr":
                names.add(str(node.target))
        for name in _tensors(self._root):
            if name.startswith(tuple(prefixes)) and not name.endswith("num_batches_tracked"):
                names.add(name)
        return tuple(sorted(names))

    @property
    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors that a state dict of this architecture holds."""
        return {name: tuple(tensor.shape) for name, tensor in self._root.state_dict().items()}

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
        outputs = [self._nodes[layer] for layer in layers]
        wanted = _ancestors(outputs)
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        result: dict[str, fx.Node] = {}
        for node in self._graph.nodes:
            if node not in wanted:
                continue
            copies[node] = graph.node_copy(node, copies.__getitem__)
            if node in outputs:
                # A later operation may work in place: hand out what the layer itself computed.
                reused = any(user in wanted for user in node.users)
                result[layers[outputs.index(node)]] = (
                    graph.call_method("clone", (copies[node],)) if reused else copies[node]
                )
        graph.output(result)
        module = copy.deepcopy(fx.GraphModule(self._root, graph))
        for name in _tensors(module):
            if name in tensors:
                _assign(module, name, tensors[name])
        module.eval().requires_grad_(requires_grad=False)
        # The same arithmetic in the order that convolutions on processors read fastest.
        return module.to(memory_format=torch.channels_last)

    def output_shapes(self, image_size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Return each layer's output shape for one image of (height, width) pixels.

        Nothing is computed. Operations whose result is not one tensor are left out.
        """
        recorder = _ShapeRecorder(fx.GraphModule(self._root, self._graph))
        try:
            recorder.run(torch.empty(_PROBE, 3, *image_size, device="meta"))
        except (RuntimeError, AttributeError, TypeError, ValueError) as error:
            raise _untraceable(self.name, error) from error
        from_images: set[fx.Node] = set()
        for node in self._graph.nodes:
            if node.op == "placeholder" or not from_images.isdisjoint(node.all_input_nodes):
                from_images.add(node)
        shapes = {}
        for name, node in self._nodes.items():
            shape = recorder.shapes.get(node, ())
            if node in from_images and len(shape) > 1 and shape[0] == _PROBE:
                shapes[name] = shape[1:]
        return shapes

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self._root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _has_weights(self, node: fx.Node) -> bool:
        return isinstance(self._module(node), nn.Linear | nn.Conv2d) or node.target in _WEIGHTED


class _ShapeRecorder(fx.Interpreter):
    """Runs a graph and keeps the shape of every result that is one tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        if isinstance(result, torch.Tensor):
            self.shapes[node] = tuple(result.shape)
        return result


def _untraceable(name: str, error: Exception) -> UsageError:
    return UsageError(
        f"{name} cannot be traced as a graph of layers ({type(error).__name__}); choose another "
        f"model"
    )


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Build without spending time on initial weights, where the model allows it."""
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, NotImplementedError):  # the constructor looks at values
        return build().to("meta")


def _trace(root: nn.Module) -> tuple[fx.Graph, dict[fx.Node, str]]:
    """Return the graph of a model in evaluation mode, and torchvision's names of its nodes."""
    tracer = NodePathTracer(
        autowrap_modules=(math, torchvision.ops),
        autowrap_functions=tuple(get_notrace_functions()),
        leaf_modules=_leaf_modules(),
    )
    return tracer.trace(root.eval()), dict(tracer.node_to_qualname)


def _constants(root: nn.Module, graph: fx.Graph) -> dict[str, torch.Tensor]:
    """Return the tensors that a graph reads and a state dict does not hold."""
    held = root.state_dict()
    found = {name: tensor for name, tensor in root.named_buffers() if name not in held}
    for node in graph.nodes:
        if node.op == "get_attr" and node.target not in held:
            path, _, attribute = node.target.rpartition(".")
            found[node.target] = getattr(root.get_submodule(path), attribute)
    return found


def _leaf_modules() -> tuple[type, ...]:
    """Return what torchvision treats as one layer, and what timm does."""
    operations = [item for _, item in inspect.getmembers(torchvision.ops, inspect.isclass)]
    blocks = [item for item in operations if issubclass(item, nn.Module)]
    return (*blocks, *get_notrace_modules())


def _ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _assign(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    path, _, attribute = name.rpartition(".")
    owner = module.get_submodule(path)
    if isinstance(getattr(owner, attribute), nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=False)
    setattr(owner, attribute, tensor)


def _aliases(model: nn.Module, layers: Mapping[str, fx.Node]) -> dict[str, str]:
    """Return the Keras names of a VGG's layers.

    In Keras a convolution includes its activation, so ``block1_conv1`` is the ReLU's output.
    """
    if not isinstance(model, torchvision.models.VGG):
        return {}
    aliases = {}
    block, convolution = 1, 0
    for index, module in model.features.named_children():
        if isinstance(module, nn.ReLU):
            convolution += 1
            aliases[f"block{block}_conv{convolution}"] = f"features.{index}"
        elif isinstance(module, nn.MaxPool2d):
            aliases[f"block{block}_pool"] = f"features.{index}"
            block, convolution = block + 1, 0
    aliases |= {"fc1": "classifier.1", "fc2": "classifier.4", "predictions": "classifier.6"}
    return {alias: layer for alias, layer in aliases.items() if layer in layers}
