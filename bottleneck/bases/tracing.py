"""From a model to its graph of named nodes, and to the tensors in it."""

import copy
import inspect
import math
import sys
from collections.abc import Callable, Mapping

import torch
import torchvision
from torch import fx, nn
from torchvision.models.feature_extraction import NodePathTracer

__all__ = ["assign", "constants", "on_meta", "tensors_of", "trace", "with_tensors"]


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Build without spending time on initial weights, where the model allows it."""
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, NotImplementedError):  # the constructor looks at values
        return build().to("meta")


def trace(root: nn.Module) -> tuple[fx.Graph, dict[fx.Node, str]]:
    """Return the graph of a model in evaluation mode, and torchvision's names of its nodes."""
    timm = sys.modules.get("timm.layers")  # not loaded, where no model is of it
    tracer = NodePathTracer(
        autowrap_modules=(math, torchvision.ops),
        autowrap_functions=tuple(timm.get_notrace_functions()) if timm else (),
        leaf_modules=(*_leaf_modules(), *(timm.get_notrace_modules() if timm else ())),
    )
    return tracer.trace(root.eval()), dict(tracer.node_to_qualname)


def constants(root: nn.Module, graph: fx.Graph) -> dict[str, torch.Tensor]:
    """Return the tensors that a graph reads and a state dict does not hold.

    Raises
    ------
    TypeError
        One is computed from weights, which are others than those that will be loaded.
    """
    held = root.state_dict()
    found = {name: tensor for name, tensor in root.named_buffers() if name not in held}
    for node in graph.nodes:
        if node.op == "get_attr" and node.target not in held:
            path, _, attribute = node.target.rpartition(".")
            found[node.target] = getattr(root.get_submodule(path), attribute)
            if found[node.target].grad_fn is not None:
                raise TypeError(f"it keeps {node.target}, which is computed from weights")
    return found


def _leaf_modules() -> tuple[type, ...]:
    """Return what torchvision treats as one layer.

    But a convolution with its normalisation and activation is three layers here, as in Keras.
    """
    operations = [item for _, item in inspect.getmembers(torchvision.ops, inspect.isclass)]
    blocks = [item for item in operations if issubclass(item, nn.Module)]
    three = (torchvision.ops.Conv2dNormActivation, torchvision.ops.Conv3dNormActivation)
    return tuple(item for item in blocks if item not in three)


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers, by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def assign(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Put a tensor in the place of a parameter or buffer."""
    path, _, attribute = name.rpartition(".")
    owner = module.get_submodule(path)
    if isinstance(getattr(owner, attribute), nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=False)
    setattr(owner, attribute, tensor)


def with_tensors(
    root: nn.Module, graph: fx.Graph, tensors: Mapping[str, torch.Tensor]
) -> fx.GraphModule:
    """Return what computes some of a model's operations, frozen, in evaluation mode.

    Parameters
    ----------
    root : torch.nn.Module
        The model, on the meta device.
    graph : torch.fx.Graph
        The operations.
    tensors : mapping of str to torch.Tensor
        Parameters and buffers by the model's names; they are taken as they are, not copied.
    """
    module = copy.deepcopy(fx.GraphModule(root, graph))
    for name in tensors_of(module):
        if name in tensors:
            assign(module, name, tensors[name])
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.num_batches_tracked = None  # it decides nothing, and has no value here
    module.eval().requires_grad_(requires_grad=False)
    return module
