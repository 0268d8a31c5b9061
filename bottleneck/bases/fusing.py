"""The same network with fewer and faster operations."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["PLAIN_CONVOLUTIONS", "SHAPE", "fuse"]

PLAIN_CONVOLUTIONS = {nn.Conv2d, Conv2dSame}
"""Others compute their weights from those that are stored."""
SHAPE = "shape"
"""Where a node's `meta` has the shape of one image's activation, if that is known."""
_USUAL_BATCH = 4
_IMAGES = 4
"""Axes of a tensor that convolutions work on."""

_ACTIVATIONS: dict[Any, tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.functional.relu: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
    nn.SiLU: ("swish", []),
}
"""What oneDNN computes together with a convolution: its name for it and the arguments."""


def fuse(module: fx.GraphModule, dtype: torch.dtype, device: torch.device) -> None:
    """Change a frozen network to compute the same in less time, in place.

    Batch normalisation is folded into the convolution before it, in float32, and only then are the
    weights rounded to `dtype`; where it cannot be folded, its few numbers stay float32. Maps and
    weights of convolutions lie channels-last. On a processor, convolutions are computed together
    with their activation by oneDNN, on weights laid out for it once; these are the operators that
    PyTorch's own compiler emits.

    Parameters
    ----------
    module : torch.fx.GraphModule
        In evaluation mode, float32. Weights are laid out for activations of the shapes that its
        nodes have as `SHAPE`; others are computed, too.
    dtype, device : torch.dtype, torch.device
        Of its weights from now on.
    """
    _fold_normalisation(module)
    exact = [
        (norm, norm.state_dict())
        for norm in module.modules()
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    module.to(device=device, dtype=dtype)
    for norm, state in exact:
        norm.float().load_state_dict(state)
    for weight in module.parameters():
        if weight.dim() == _IMAGES:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    if device.type == "cpu" and _packs(dtype):
        _pack_convolutions(module)
    module.delete_all_unused_submodules()
    module.recompile()
    module.eval()


def _fold_normalisation(module: fx.GraphModule) -> None:
    modules = _modules_by_node(module)
    own = _called_once(modules)
    for node, norm in modules.items():
        if type(norm) is not nn.BatchNorm2d and not isinstance(norm, BatchNormAct2d):
            continue
        (before,) = node.all_input_nodes
        conv: Any = modules.get(before)
        plain = type(conv) in PLAIN_CONVOLUTIONS and {before, node} <= own
        if not plain or len(before.users) > 1:
            continue  # with two users, what the convolution itself gives is asked for
        module.set_submodule(str(before.target), fuse_conv_bn_eval(conv, norm))
        if isinstance(norm, BatchNormAct2d):
            act: Any = norm.act
            module.set_submodule(str(node.target), act)
        else:
            node.replace_all_uses_with(before)
            module.graph.erase_node(node)


def _pack_convolutions(module: fx.GraphModule) -> None:
    modules = _modules_by_node(module)
    for node in _called_once(modules):
        conv = modules[node]
        if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros" or conv.padding == "same":
            continue
        user = next(iter(node.users))
        kind = type(modules[user]) if user in modules else user.target
        activation = _ACTIVATIONS.get(kind) if len(node.users) == 1 else None
        shape = node.all_input_nodes[0].meta.get(SHAPE)
        size = [_USUAL_BATCH, *shape] if shape else None
        packed = _PackedConvolution(conv, size, *(activation or ("none", [])))
        module.set_submodule(str(node.target), packed)
        if activation:
            user.replace_all_uses_with(node)
            module.graph.erase_node(user)


class _PackedConvolution(nn.Module):
    """A convolution and its activation in one operation, on weights in oneDNN's own order."""

    def __init__(
        self, conv: nn.Conv2d, size: list[int] | None, activation: str, arguments: list[float]
    ) -> None:
        super().__init__()
        padding = [0, 0] if conv.padding == "valid" else list(conv.padding)
        self._settings = (padding, list(conv.stride), list(conv.dilation), conv.groups)
        self._activation = (activation, arguments, "")
        self._bias = conv.bias
        functions: Any = torch._C._nn  # noqa: SLF001
        self._weight = functions.mkldnn_reorder_conv2d_weight(
            conv.weight.to_mkldnn(), *self._settings, size
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001
            maps, self._weight, self._bias, *self._settings, *self._activation
        )
        return result


def _packs(dtype: torch.dtype) -> bool:
    """Tell whether oneDNN computes in a type here, and PyTorch hands it single operations."""
    operators: Any = torch.ops.mkldnn
    if not torch._C._has_mkldnn or not hasattr(operators, "_convolution_pointwise"):  # noqa: SLF001
        return False
    if dtype == torch.bfloat16:
        return bool(operators._is_mkldnn_bf16_supported())  # noqa: SLF001
    if dtype == torch.float16:
        return bool(operators._is_mkldnn_fp16_supported())  # noqa: SLF001
    return True


def _modules_by_node(module: fx.GraphModule) -> dict[fx.Node, nn.Module]:
    """Return the module that each node calls."""
    called = [node for node in module.graph.nodes if node.op == "call_module"]
    return {node: module.get_submodule(node.target) for node in called}


def _called_once(modules: Mapping[fx.Node, nn.Module]) -> set[fx.Node]:
    """Return the nodes whose module no other node calls."""
    times = Counter(node.target for node in modules)
    return {node for node in modules if times[node.target] == 1}
