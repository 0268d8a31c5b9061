"""Optimise a network: the same function with fewer and faster operations."""

import copy
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bottleneck.bases.precision import onednn_computes

__all__ = ["SHAPE", "USERS", "fuse", "is_plain_convolution"]

SHAPE = "shape"
"""Key of a node's `meta` for the shape of one image's activation, if known."""
USERS = "users"
"""Key of a node's `meta` for the number of its users in the whole network."""
_USUAL_BATCH = 4
_IMAGES = 4
"""Number of dimensions of a convolution's input."""

_Activation = tuple[str, list[float], str]
_ACTIVATIONS: dict[Any, _Activation] = {
    nn.ReLU: ("relu", [], ""),
    nn.functional.relu: ("relu", [], ""),
    nn.ReLU6: ("hardtanh", [0.0, 6.0], ""),
    nn.Hardswish: ("hardswish", [], ""),
    nn.SiLU: ("swish", [], ""),
}
"""Activations that oneDNN fuses with a convolution: its name for each, arguments, algorithm."""


def fuse(module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Optimise a frozen network in place, without changing its function.

    Batch normalisation is folded into the preceding convolution, in float32, and only then are the
    weights rounded to `dtype`; if it cannot be folded, its parameters stay float32. Maps and
    weights of convolutions are stored channels-last. On CPUs, convolutions and their activations
    are fused by oneDNN, with weights in its own layout; PyTorch's compiler uses the same operators.

    Fusing depends only on the whole network, so a layer's values are bitwise equal whichever other
    layers are computed.

    Of a network that is not a graph, no operations are fused, only the weights are converted.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode, float32. Nodes of a graph have `USERS`. Weight layouts are optimised
        for the shapes in `SHAPE`, but other shapes work, too.
    dtype, device : torch.dtype, torch.device
        Data type and device of its weights from now on.
    """
    if isinstance(module, fx.GraphModule):
        _compute_inner_layers_apart(module)
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
    if isinstance(module, fx.GraphModule):
        if device.type == "cpu" and onednn_computes(dtype):
            _pack_convolutions(module)
        module.delete_all_unused_submodules()
        module.recompile()
    module.eval()


def is_plain_convolution(module: nn.Module | None) -> bool:
    """Whether a module convolves with its stored weights, not with weights computed from them.

    Parameters
    ----------
    module : torch.nn.Module or None
        None for an operation that is not a module.

    Returns
    -------
    bool
    """
    return type(module) in {nn.Conv2d, *_of_timm("Conv2dSame")}


def _of_timm(name: str) -> tuple[Any, ...]:
    """Return a class of timm as a tuple, for `isinstance`; empty if timm is not imported."""
    layers = sys.modules.get("timm.layers")
    return () if layers is None else (getattr(layers, name),)


def _compute_inner_layers_apart(module: fx.GraphModule) -> None:
    """Compute layers separately that would disappear when operations are fused."""
    modules, called_once = _modules(module)
    for handed_out in module.graph.find_nodes(op="call_method", target="clone"):
        (node,) = handed_out.all_input_nodes
        joined = any(
            isinstance(modules.get(user), nn.BatchNorm2d) or _kind(user, modules) in _ACTIVATIONS
            for user in node.users
        )
        vanishes = isinstance(modules.get(node), nn.Conv2d | nn.BatchNorm2d) and joined
        if node.meta[USERS] > 1 or not vanishes:
            continue
        (before,) = node.all_input_nodes
        chain = [before, node] if isinstance(modules.get(before), nn.Conv2d) else [node]
        if not called_once.issuperset(chain):
            continue
        result = chain[0].all_input_nodes[0]
        for each in chain:
            name = f"{each.target}_for_{node.name}"
            module.add_submodule(name, copy.deepcopy(modules[each]))
            with module.graph.inserting_before(handed_out):
                again = module.graph.call_module(name, (result,))
            again.meta |= each.meta
            result = again
        handed_out.replace_all_uses_with(result)
        module.graph.erase_node(handed_out)


def _kind(node: fx.Node, modules: Mapping[fx.Node, nn.Module]) -> Any:
    return type(modules[node]) if node in modules else node.target


def _fold_normalisation(module: fx.GraphModule) -> None:
    modules, called_once = _modules(module)
    normed_activations = _of_timm("BatchNormAct2d")
    for node, norm in modules.items():
        if type(norm) is not nn.BatchNorm2d and not isinstance(norm, normed_activations):
            continue
        (before,) = node.all_input_nodes
        conv: Any = modules.get(before)
        if not is_plain_convolution(conv) or not called_once.issuperset([before, node]):
            continue
        if before.meta[USERS] > 1:  # what the convolution itself gives is asked for
            continue
        before.meta[USERS] = node.meta[USERS]
        module.set_submodule(str(before.target), fuse_conv_bn_eval(conv, norm))
        if isinstance(norm, normed_activations):
            act: Any = norm.act
            module.set_submodule(str(node.target), act)
        else:
            node.replace_all_uses_with(before)
            module.graph.erase_node(node)


def _pack_convolutions(module: fx.GraphModule) -> None:
    modules, called_once = _modules(module)
    for node in called_once:
        conv: Any = modules[node]
        if not is_plain_convolution(conv) or conv.padding_mode != "zeros" or conv.padding == "same":
            continue
        user = next(iter(node.users))
        activation = _ACTIVATIONS.get(_kind(user, modules)) if node.meta[USERS] == 1 else None
        shape = node.all_input_nodes[0].meta.get(SHAPE)
        size = [_USUAL_BATCH, *shape] if shape else None
        kind = _PackedConvolution if type(conv) is nn.Conv2d else _PackedSame
        packed = kind(conv, size, activation or ("none", [], ""))
        node.op, node.target = "call_function", packed.compute  # faster than a module
        if activation:
            user.replace_all_uses_with(node)
            module.graph.erase_node(user)


class _PackedConvolution:
    """A fused convolution and activation, on weights in oneDNN's layout."""

    def __init__(self, conv: nn.Conv2d, size: list[int] | None, activation: _Activation) -> None:
        padding = [0, 0] if conv.padding == "valid" else list(conv.padding)
        self._settings = (padding, list(conv.stride), list(conv.dilation), conv.groups)
        self._arguments = (conv.bias, *self._settings, *activation)
        self._convolve = torch.ops.mkldnn._convolution_pointwise.default  # noqa: SLF001
        self._size = size
        self._weight = self._packed(conv.weight, size)

    @cached_property
    def _weight_of_one(self) -> torch.Tensor:
        """The weight in the layout for a batch of one image.

        Its kernels are other ones, and oneDNN would convert the weight in each call: with AVX2,
        more than half of the time of an image of ResNet-50.
        """
        size = self._size and [1, *self._size[1:]]
        return self._packed(self._weight.to_dense(), size)

    def _packed(self, weight: torch.Tensor, size: list[int] | None) -> torch.Tensor:
        functions: Any = torch._C._nn  # noqa: SLF001
        packed: torch.Tensor = functions.mkldnn_reorder_conv2d_weight(
            weight.to_mkldnn(), *self._settings, size
        )
        return packed

    def compute(self, maps: torch.Tensor) -> torch.Tensor:
        weight = self._weight_of_one if len(maps) == 1 else self._weight
        result: torch.Tensor = self._convolve(maps, weight, *self._arguments)
        return result


class _PackedSame:
    """A fused convolution of timm's whose padding follows the size of its input, as TensorFlow's.

    oneDNN's operator pads both sides alike. Where one more is needed behind, depthwise kernels
    begin with zeros and maps are padded by one more in front, which is faster than to copy the
    maps; others, and maps of other sizes, are padded before. The values are the same.
    """

    def __init__(self, conv: nn.Conv2d, size: list[int] | None, activation: _Activation) -> None:
        self._steps = list(zip(conv.kernel_size, conv.stride, conv.dilation, strict=True))
        self._valid = _PackedConvolution(conv, size, activation)
        self._usual = self._padding(size[2:]) if size else []
        odd = [each % 2 for each in self._usual]
        depthwise = conv.groups == conv.in_channels and {*conv.dilation} == {1}
        if any(odd) and not depthwise:
            self._usual = []
        if self._usual:
            whole = copy.deepcopy(conv)
            whole.weight.data = nn.functional.pad(conv.weight.data, [odd[1], 0, odd[0], 0])
            whole.padding = tuple(each - each // 2 for each in self._usual)
            self._whole = _PackedConvolution(whole, size, activation)

    def _padding(self, size: Sequence[int]) -> list[int]:
        """Return how much is added to the height and to the width."""
        return [
            max((math.ceil(n / stride) - 1) * stride + (kernel - 1) * dilation + 1 - n, 0)
            for n, (kernel, stride, dilation) in zip(size, self._steps, strict=True)
        ]

    def compute(self, maps: torch.Tensor) -> torch.Tensor:
        total = self._padding(maps.shape[2:])
        if total == self._usual:
            return self._whole.compute(maps)
        sides = [side for each in reversed(total) for side in (each // 2, each - each // 2)]
        return self._valid.compute(nn.functional.pad(maps, sides))


def _modules(module: fx.GraphModule) -> tuple[dict[fx.Node, nn.Module], set[fx.Node]]:
    """Return the module that each node calls, and the nodes that share theirs with no other."""
    called = module.graph.find_nodes(op="call_module")
    times = Counter(node.target for node in called)
    once = {node for node in called if times[node.target] == 1}
    return {node: module.get_submodule(node.target) for node in called}, once
