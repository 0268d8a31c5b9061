"""Trace a model as a graph of named nodes that can be cut after any of them."""

import copy
import inspect
import math
import operator
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from operator import attrgetter
from typing import Any

import torch
import torchvision
from torch import fx, nn
from torch.fx.node import map_aggregate
from torch.utils._device import _device_constructors
from torchvision.models.feature_extraction import NodePathTracer

from bottleneck.bases.building import built, built_size, check_network, on_meta, one_input
from bottleneck.bases.fusing import SHAPE, USERS
from bottleneck.bases.graphs import ancestors, assign, replace_tensors
from bottleneck.bases.measuring import Measured

__all__ = ["CLASS_TOKEN", "Traced"]

CLASS_TOKEN = "class_token"  # noqa: S105 - no password
"""Name of a layer that is added where a network ignores its class token."""


class Traced:
    """A model in evaluation mode as a graph of its operations.

    Parameters
    ----------
    build : callable
        Returns the model.
    image_size : (int, int)
        Height and width in pixels of the usual images.

    Attributes
    ----------
    image_size : (int, int)
        The only size that the model takes, or else the given one.
    root : torch.nn.Module
        The model on the meta device, without values.
    graph : torch.fx.Graph
        Its operations in the order of computation.
    nodes : dict of str to torch.fx.Node
        All operations except the input, by torchvision's names.
    constants : dict of str to torch.Tensor
        Tensors that the graph reads and that are in no state dict.
    reason : str
        Empty; for a network that cannot be traced, the reason.

    Raises
    ------
    UsageError
        The model takes several inputs, or keeps a tensor computed from weights.
    RuntimeError
        The model draws random numbers that would become constants.
    """

    reason = ""

    def __init__(self, build: Callable[[], nn.Module], image_size: tuple[int, int]) -> None:
        for make in (on_meta, built):
            root = make(build)
            check_network(root)
            timm = sys.modules.get("timm.layers")  # not loaded, where no model is of it
            tracer = _Tracer(
                autowrap_modules=(math, torchvision.ops),
                autowrap_functions=tuple(timm.get_notrace_functions()) if timm else (),
                leaf_modules=(*_leaf_modules(), *(timm.get_notrace_modules() if timm else ())),
            )
            state = torch.get_rng_state()
            with one_input(root):
                self.graph = tracer.trace(root)
            if not torch.equal(state, torch.get_rng_state()):
                raise RuntimeError("it draws random numbers, which would become constants")
            self.constants = _constants(root, self.graph)
            if not self.constants:
                break  # else the model's own constructor has to compute their values
        # Without gradients, what modules keep for later can be copied with them.
        self.root = root.to("meta").requires_grad_(requires_grad=False)
        for key, value in self.constants.items():
            assign(self.root, key, value.to("meta"))
        names = tracer.node_to_qualname.items()
        self.nodes = {name: each for each, name in names if each.op != "placeholder"}
        self._add_class_token()
        for node in self.graph.nodes:
            _place(node, torch.device("meta"))
        self.image_size = built_size(root) or image_size
        self.measure = cache(partial(Measured, self.root, self.graph))

    def _add_class_token(self) -> None:
        """Add the class token after the last normalisation where timm averages patches instead.

        DINO's authors compare images by it.
        """
        facts = [getattr(self.root, name, None) for name in ("num_classes", "global_pool")]
        norms = [name for name in self.nodes if name.partition(".")[0] == "norm"]
        if facts != [0, "avg"] or getattr(self.root, "cls_token", None) is None or not norms:
            return
        norm = self.nodes[norms[-1]]
        with self.graph.inserting_after(norm):
            token = self.graph.call_function(operator.getitem, (norm, (slice(None), 0)))
        known = {node: name for name, node in self.nodes.items()} | {token: CLASS_TOKEN}
        self.nodes = {known[node]: node for node in self.graph.nodes if node in known}

    def module(
        self,
        outputs: Mapping[str, fx.Node] | fx.Node,
        tensors: Mapping[str, torch.Tensor],
        above: fx.Node | None = None,
    ) -> nn.Module:
        """Return the part of the model that computes some activations, and nothing after them.

        Parameters
        ----------
        outputs : fx.Node or dict of str to fx.Node
            What to compute.
        tensors : mapping of str to torch.Tensor
            At least the parameters and buffers that affect them, constants included.
        above : fx.Node, optional
            A node whose activation is the input, in place of images.

        Returns
        -------
        torch.nn.Module
            Maps a batch to the activation, or to a dict of them, in evaluation mode and without
            gradients.
        """
        wanted = [outputs] if isinstance(outputs, fx.Node) else outputs.values()
        graph, copies = _copied(self.graph, wanted, above)
        shapes = self.measure(self.image_size).shapes
        for node, copy_ in copies.items():
            copy_.meta |= {SHAPE: shapes.get(node), USERS: len(node.users)}

        def handed_out(node: fx.Node) -> fx.Node:
            if not copies[node].users:
                return copies[node]
            # A later in-place operation may change it: return a copy of the layer's own result.
            with graph.inserting_after(copies[node]):
                return graph.call_method("clone", (copies[node],))

        graph.output(fx.node.map_arg(outputs, handed_out))
        return _with_tensors(self.root, graph, tensors)


class _Tracer(NodePathTracer):  # type: ignore[misc]
    """torchvision's tracer, with the same names found in less time."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._numbers: dict[str, int] = {}

    def _get_node_qualname(self, module_qualname: str, node: fx.Node) -> str:
        name = module_qualname
        if node.op != "call_module":
            name = f"{name}.{node}".lstrip(".")
        name = re.sub(r"(?<=.)_[0-9]+$", "", name)
        number = self._numbers.get(name, -1) + 1
        self._numbers[name] = number
        return f"{name}_{number}" if number else name


def _place(node: fx.Node, device: torch.device | fx.Node) -> bool:
    """Let an operation compute on another device; return whether it names one."""
    args, kwargs = node.args, node.kwargs

    def placed(values: Any) -> Any:
        return map_aggregate(
            values, lambda each: device if isinstance(each, torch.device) else each
        )

    node.args, node.kwargs = placed(args), placed(dict(kwargs))
    if node.op == "call_function" and node.target in _device_constructors():
        node.kwargs = {**node.kwargs, "device": device}
    return (node.args, node.kwargs) != (args, kwargs)


def _constants(root: nn.Module, graph: fx.Graph) -> dict[str, torch.Tensor]:
    held = root.state_dict()
    found = {name: tensor for name, tensor in root.named_buffers() if name not in held}
    for node in graph.find_nodes(op="get_attr"):
        if node.target not in held:
            found[node.target] = attrgetter(node.target)(root)
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


def _copied(
    graph: fx.Graph, outputs: Iterable[fx.Node], above: fx.Node | None
) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """Copy the operations that compute some nodes into a new graph, which lacks an output.

    Returns the new graph, and a mapping of node to its copy. New tensors are made on the device of
    the new graph's input, the activation of `above` or images.
    """
    needed, new = ancestors(outputs, above), fx.Graph()
    copies = {above: new.placeholder("activations")} if above else {}
    for node in graph.nodes:
        if node in needed:
            copies[node] = new.node_copy(node, copies.__getitem__)
    images = next(iter(new.find_nodes(op="placeholder")), None)
    if images is not None:
        with new.inserting_after(images):
            device = new.call_function(getattr, (images, "device"))
        if not sum(_place(node, device) for node in copies.values()):
            new.erase_node(device)
    return new, copies


def _with_tensors(
    root: nn.Module, graph: fx.Graph, tensors: Mapping[str, torch.Tensor]
) -> fx.GraphModule:
    """Return a frozen module, in evaluation mode, for some of a model's operations.

    Tensors have the model's names, and are used directly, without a copy.
    """
    module = copy.deepcopy(fx.GraphModule(root, graph))
    replace_tensors(module, tensors)
    return module
