"""Trace a model as a graph of named nodes, and measure shapes, costs and tensors."""

import copy
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any

import torch
import torchvision
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import NodePathTracer

__all__ = ["Measured", "ancestors", "copied", "module_of", "tensors_at", "trace", "with_tensors"]

_COUNTER = "num_batches_tracked"
_PROBE = 13
"""A batch size that differs from every dimension of a model."""


def trace(
    build: Callable[[], nn.Module],
) -> tuple[nn.Module, fx.Graph, dict[str, fx.Node], dict[str, torch.Tensor]]:
    """Trace a model in evaluation mode.

    Parameters
    ----------
    build : callable
        Returns the model.

    Returns
    -------
    root : torch.nn.Module
        The model on the meta device, without values.
    graph : torch.fx.Graph
        Its operations in the order of computation.
    nodes : dict of str to torch.fx.Node
        All operations except the input, by torchvision's names.
    constants : dict of str to torch.Tensor
        Tensors that the graph reads and that are in no state dict.

    Raises
    ------
    TypeError
        A constant is computed from weights, which will be replaced by loading.
    """
    for make in (partial(_on_meta, build), build):
        root = make().eval()
        timm = sys.modules.get("timm.layers")  # not loaded, where no model is of it
        tracer = NodePathTracer(
            autowrap_modules=(math, torchvision.ops),
            autowrap_functions=tuple(timm.get_notrace_functions()) if timm else (),
            leaf_modules=(*_leaf_modules(), *(timm.get_notrace_modules() if timm else ())),
        )
        graph = tracer.trace(root)
        constants = _constants(root, graph)
        if not constants:
            break  # else the model's own constructor has to compute their values
    # Without gradients, what modules keep for later can be copied with them.
    root = root.to("meta").requires_grad_(requires_grad=False)
    for key, value in constants.items():
        _assign(root, key, value.to("meta"))
    names = tracer.node_to_qualname.items()
    return root, graph, {name: each for each, name in names if each.op != "placeholder"}, constants


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Build without initialising weights, if the model supports it."""
    try:
        with torch.device("meta"):
            return build()
    except RuntimeError:  # the constructor looks at values
        return build().to("meta")


def _constants(root: nn.Module, graph: fx.Graph) -> dict[str, torch.Tensor]:
    held = root.state_dict()
    found = {name: tensor for name, tensor in root.named_buffers() if name not in held}
    for node in graph.find_nodes(op="get_attr"):
        if node.target not in held:
            found[node.target] = attrgetter(node.target)(root)
            if found[node.target].grad_fn is not None:
                raise TypeError(f"it stores {node.target}, which is computed from weights")
    return found


def _leaf_modules() -> tuple[type, ...]:
    """Return the modules that torchvision treats as one layer.

    Except that a convolution with its normalisation and activation is three layers here, as in
    Keras.
    """
    operations = [item for _, item in inspect.getmembers(torchvision.ops, inspect.isclass)]
    blocks = [item for item in operations if issubclass(item, nn.Module)]
    three = (torchvision.ops.Conv2dNormActivation, torchvision.ops.Conv3dNormActivation)
    return tuple(item for item in blocks if item not in three)


def copied(
    graph: fx.Graph, outputs: Iterable[fx.Node], above: fx.Node | None = None
) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """Copy the operations that compute some nodes into a new graph, which lacks an output.

    Parameters
    ----------
    graph : torch.fx.Graph
        The graph of the whole network.
    outputs : iterable of torch.fx.Node
        Nodes to compute.
    above : torch.fx.Node, optional
        A node whose activation is the input of the new graph.

    Returns
    -------
    torch.fx.Graph, dict of torch.fx.Node to torch.fx.Node
        The new graph, and a mapping of node to its copy.
    """
    needed, new = ancestors(outputs, above), fx.Graph()
    copies = {above: new.placeholder("activations")} if above else {}
    for node in graph.nodes:
        if node in needed:
            copies[node] = new.node_copy(node, copies.__getitem__)
    return new, copies


def module_of(root: nn.Module, node: fx.Node) -> nn.Module | None:
    """Return the module that a node calls, if it calls one.

    Parameters
    ----------
    root : torch.nn.Module
        The model.
    node : torch.fx.Node
        An operation of its graph.

    Returns
    -------
    torch.nn.Module or None
    """
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None


def ancestors(nodes: Iterable[fx.Node], above: fx.Node | None = None) -> set[fx.Node]:
    """Return nodes and everything they depend on; only what comes after `above`, if given.

    Parameters
    ----------
    nodes : iterable of torch.fx.Node
        Nodes to start from.
    above : torch.fx.Node, optional
        A node at which to stop; it is not returned.

    Returns
    -------
    set of torch.fx.Node
    """
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found and node is not above:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found


def tensors_at(root: nn.Module, node: fx.Node) -> list[str]:
    """Return the names of the parameters and buffers that an operation reads.

    A counter of training batches has no effect and is left out.

    Parameters
    ----------
    root : torch.nn.Module
        The model.
    node : torch.fx.Node
        An operation of its graph.

    Returns
    -------
    list of str
        Names of tensors of `root`; empty if the operation reads none.
    """
    if node.op == "get_attr":
        return [str(node.target)]
    module = module_of(root, node)
    names = _tensors_of(module) if module else ()
    return [f"{node.target}.{name}" for name in names if not name.endswith(_COUNTER)]


def _tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _assign(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Replace a parameter or buffer by a tensor."""
    path, _, attribute = name.rpartition(".")
    owner = module.get_submodule(path)
    if isinstance(getattr(owner, attribute), nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=False)
    setattr(owner, attribute, tensor)


def with_tensors(
    root: nn.Module, graph: fx.Graph, tensors: Mapping[str, torch.Tensor]
) -> fx.GraphModule:
    """Return a frozen module, in evaluation mode, for some of a model's operations.

    Parameters
    ----------
    root : torch.nn.Module
        The model, on the meta device.
    graph : torch.fx.Graph
        The operations.
    tensors : mapping of str to torch.Tensor
        Parameters and buffers by the model's names; used directly, without a copy.

    Returns
    -------
    torch.fx.GraphModule
    """
    module = copy.deepcopy(fx.GraphModule(root, graph))
    for name in _tensors_of(module):
        if name in tensors:
            _assign(module, name, tensors[name])
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.num_batches_tracked = None  # it decides nothing, and has no value here
    module.eval().requires_grad_(requires_grad=False)
    return module


class Measured(fx.Interpreter):
    """Shapes and costs from running a graph on the meta device, which computes no values.

    Parameters
    ----------
    root : torch.nn.Module
        The model, on the meta device.
    graph : torch.fx.Graph
        The operations.
    image_size : (int, int)
        Height and width in pixels of the images.

    Attributes
    ----------
    shapes : dict of fx.Node to tuple of int
        Shape of one image's activation, for nodes that are one tensor with a row per image.
    costs : dict of fx.Node to int
        Multiply-adds per image of the network up to each node.
    error : Exception or None
        The error that stopped the run; the nodes before it have been measured.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, image_size: tuple[int, int]) -> None:
        super().__init__(fx.GraphModule(root, graph))
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.costs: dict[fx.Node, int] = {}
        self.error: Exception | None = None
        self._from_images: set[fx.Node] = set()
        self._own_costs: dict[fx.Node, dict[fx.Node, int]] = {}
        with FlopCounterMode(display=False) as self._counter:
            try:
                self.run(torch.empty(_PROBE, 3, *image_size, device="meta"))
            except Exception as error:  # whatever a model's own code raises  # noqa: BLE001
                self.error = error
        self._own_costs.clear()

    def run_node(self, node: fx.Node) -> Any:
        """Run one operation and record its shape and cost.

        Parameters
        ----------
        node : torch.fx.Node
            The operation.

        Returns
        -------
        Any
            Its value, usually a tensor on the meta device.
        """
        before = self._counter.get_total_flops()
        result = super().run_node(node)
        own = (self._counter.get_total_flops() - before) // (2 * _PROBE)
        # An operation that two others use is counted once.
        needed = {node: own} if own else {}
        for each in node.all_input_nodes:
            needed |= self._own_costs[each]
        self._own_costs[node] = needed
        self.costs[node] = sum(needed.values())
        if node.op == "placeholder" or not self._from_images.isdisjoint(node.all_input_nodes):
            self._from_images.add(node)
            if isinstance(result, torch.Tensor) and result.dim() > 1 and len(result) == _PROBE:
                self.shapes[node] = tuple(result.shape[1:])
        return result
