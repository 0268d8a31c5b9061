"""The layers of a network: shapes, costs, and words that name a layer on every base."""

import operator
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from bottleneck.arguments import modules_of
from bottleneck.bases.building import without_output
from bottleneck.bases.graphs import ancestors, module_of
from bottleneck.bases.hooking import own_result
from bottleneck.bases.tracing import CLASS_TOKEN

__all__ = ["CLASS_TOKEN", "WORDS", "Layer", "accepted_sizes", "describe", "embedding_of"]

WORDS = ("last_conv", "penultimate", "logits")
"""Layer names that every base has, see `Network`."""

_CONTRASTIVE = re.compile("clip|pe_core")
"""In timm's names of networks that were trained with texts, whose last layer is a projection."""
_LABELS = (1000, 11_221, 11_821, 21_841, 21_843)
"""Numbers of classes of ImageNet and its subsets, on which such networks are fine-tuned."""

_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_PASSING = (nn.Dropout, nn.Identity)
_MAP, _TOKENS = 3, 2
_COMBINING: tuple[Any, ...] = (
    operator.add,
    operator.iadd,
    torch.add,
    torch.cat,
    torch.concat,
    "add",
    "add_",
    own_result,
)
_RESHAPING = ("reshape", "view", "flatten", "permute", "transpose", "contiguous")
_NO_BODY = ("stem", "patch_embed", "head")
_SEVERAL = 2
_WEIGHTED = (nn.functional.linear, nn.functional.conv2d)
_POOLS = ("attn_pool", "global_pool")


@dataclass(frozen=True)
class Layer:
    """A named activation with one row per image.

    Attributes
    ----------
    name : str
        torchvision's name of the node.
    aliases : tuple of str
        Keras' names for it, and words that work on every base, such as ``penultimate``.
    shape : tuple of int
        Shape of the activation of one image.
    axes : str
        The axes of `shape`, as in `bottleneck.pooling.pool`; empty if unknown.
    multiply_adds : int
        Multiply-adds per image up to this layer.
    """

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    axes: str
    multiply_adds: int


def describe(
    root: nn.Module,
    graph: fx.Graph,
    nodes: dict[str, fx.Node],
    shapes: Mapping[fx.Node, tuple[int, ...]],
    square: Mapping[fx.Node, tuple[int, ...]],
) -> tuple[dict[fx.Node, str], dict[str, fx.Node | None], tuple[str, ...]]:
    """Describe the activations of a network.

    Parameters
    ----------
    root, graph : torch.nn.Module, torch.fx.Graph
        The network.
    nodes : dict of str to fx.Node
        Its operations by name, in the order of computation.
    shapes, square : mapping of fx.Node to tuple of int
        Shapes of the activation of one image, and of one square image.

    Returns
    -------
    axes : dict of fx.Node to str
        Axes of the activations, as in `Layer`.
    words : dict of str to fx.Node or None
        The node that each of `WORDS` names, if any.
    blocks : tuple of str
        The last layer of each block, or of each pooling if a network has no blocks.

    Raises
    ------
    UsageError
        The network's output is no tensor.
    """
    (output,) = graph.find_nodes(op="output")
    logits = next((node for node in output.all_input_nodes if node in shapes), None)
    if logits is None:
        raise without_output()
    classified = _penultimate(root, graph, shapes) or logits
    below = ancestors([classified])
    before = {name: node for name, node in nodes.items() if node in below}
    ends = _block_ends(root, before)
    axes = _axes_of(root, square, [nodes[name] for name in ends])
    meant = (_last_conv(root, before, square, axes, ends), classified, logits)
    blocks = [
        name
        for name, node in before.items()
        if name in ends and _has_positions(shapes.get(node, ()))
    ]
    return axes, dict(zip(WORDS, meant, strict=True)), tuple(blocks)


def embedding_of(root: nn.Module, words: Mapping[str, str], layers: Iterable[str]) -> str | None:
    """Return the layer that a network's authors compare images by.

    Parameters
    ----------
    root : torch.nn.Module
        The network.
    words : mapping of str to str
        Each of `WORDS` to its layer.
    layers : iterable of str
        All layers.

    Returns
    -------
    str or None
        The output of a network without a classifier, or the class token if timm averages patches
        instead; of a network with a classifier, its input.
    """
    if CLASS_TOKEN in layers:
        return CLASS_TOKEN
    config = getattr(root, "pretrained_cfg", None) or {}
    name = f"{config.get('architecture', '')}.{config.get('tag', '')}"
    projects = _CONTRASTIVE.search(name) and getattr(root, "num_classes", 0) not in _LABELS
    return words.get("logits" if projects else "penultimate")


def _axes_of(
    root: nn.Module, shapes: Mapping[fx.Node, tuple[int, ...]], ends: Iterable[fx.Node]
) -> dict[fx.Node, str]:
    """Return the axes of activations, as in `Layer`.

    Tokens are recognised by their number: one for each position of a map, possibly preceded by some
    for the whole image. A map is recognised by two equal sides, as the image is square. The tokens
    at the end of a block may also be those of a map of half the side, a quarter, ..., because some
    networks pool tokens between their stages.
    """
    axes = {node: _axes_of_map(shape) for node, shape in shapes.items()}
    sides = {shapes[node][1] for node, found in axes.items() if len(found) == _MAP}
    classed = any(getattr(root, name, None) is not None for name in ("cls_token", "class_token"))
    prefix = getattr(root, "num_prefix_tokens", int(classed))
    before = f"{prefix}{'+' if classed else '-'}" if prefix else ""
    at_ends = {shapes[node][0] for node in ends if len(shapes.get(node, ())) == _TOKENS}
    smaller = {side >> times for side in sides for times in range(1, side.bit_length() - 1)}
    found = {each for each in smaller if at_ends & {each**2, each**2 + prefix}}
    grids = {side**2 for side in sides | found}
    tokens = {grid + prefix: f"{before}TC" for grid in grids} | dict.fromkeys(grids, "TC")
    for node, shape in shapes.items():
        if len(shape) == _TOKENS:
            axes[node] = tokens.get(shape[0], "")
    return axes


def _axes_of_map(shape: tuple[int, ...]) -> str:
    if len(shape) == _MAP and shape[1] == shape[2]:
        return "CHW"
    if len(shape) == _MAP and shape[0] == shape[1]:
        return "HWC"
    return "C" if len(shape) == 1 else ""


def _last_conv(
    root: nn.Module,
    candidates: dict[str, fx.Node],
    shapes: Mapping[fx.Node, tuple[int, ...]],
    axes: Mapping[fx.Node, str],
    ends: Collection[str],
) -> fx.Node | None:
    """Return the last activation with positions, a map or tokens, before global pooling.

    None if a block's end with axes that are unknown comes later.
    """
    for name, node in reversed(candidates.items()):
        placed = _has_positions(shapes.get(node, ()))
        known = len(axes.get(node, "")) > 1
        pooled = isinstance(module_of(root, node), _POOLING + _PASSING)
        if placed and known and not pooled and not name.startswith(_POOLS):
            return node
        if placed and not known and name in ends:
            return None
    return None


def _penultimate(
    root: nn.Module, graph: fx.Graph, shapes: Mapping[fx.Node, tuple[int, ...]]
) -> fx.Node | None:
    """Return the classifier's input; None if the network has no classifier.

    The classifier is the one named by timm, the first if there are two; else the last module with
    weights, unless that is a linear layer on tokens.
    """
    if getattr(root, "num_classes", None) == 0:  # so timm says that there is none
        return None
    heads: Any = getattr(root, "get_classifier", lambda: None)()
    head = heads[0] if isinstance(heads, tuple | list) else heads
    inside = set(head.modules()) if isinstance(head, nn.Module) else set()
    modules = {node: module_of(root, node) for node in graph.nodes}
    weighted = [
        node
        for node, module in modules.items()
        if isinstance(module, nn.Linear | nn.Conv2d) or node.target in _WEIGHTED
    ]
    own = [node for node in weighted if modules[node] in inside] or weighted
    if not own or len(shapes.get(own[-1], ())) not in {1, 3}:
        return None
    node: fx.Node = own[-1].all_input_nodes[0]
    while isinstance(modules[node], _PASSING):
        node = node.all_input_nodes[0]
    return node


def _has_positions(shape: tuple[int, ...]) -> bool:
    """Whether an activation is a map or several tokens, not a single vector."""
    return len(shape) > 1 and sorted(shape)[-2] > 1


def accepted_sizes(
    fits: Callable[[int], bool], image_size: tuple[int, int], refused: tuple[int, int]
) -> str:
    """Return a phrase on the image sizes that a layer supports.

    Parameters
    ----------
    fits : callable
        Takes the side of square images, and returns whether the layer supports them.
    image_size, refused : (int, int)
        Height and width that the weights were trained on, and those that are not supported.

    Returns
    -------
    str
    """
    native = max(image_size)
    others = [side for side in (native - 64, native - 32, native + 32, 2 * native) if side > 0]
    accepted = [f"{side} x {side}" for side in others if fits(side)]
    if not accepted:
        return (
            f"it takes images of {image_size[0]} x {image_size[1]} pixels: leave out `image_size` "
            f"and `keep_aspect`"
        )
    least = bisect_left(range(native), True, lo=1, key=fits)  # noqa: FBT003
    sample = (least + 1, least + 17, native + 1, native + 17)
    if min(refused) < least and all(map(fits, sample)):
        return f"it takes images of {least} x {least} pixels or more: give another `image_size`"
    return f"it takes images such as {', '.join(accepted)} pixels: give another `image_size`"


def _block_ends(root: nn.Module, nodes: Mapping[str, fx.Node]) -> list[str]:
    """Return the last layer of each block, or of each pooling if a network has no blocks.

    A block is a module that combines at least two modules with weights and does not consist of
    smaller blocks in sequence: a residual, dense, inception, inverted residual or transformer
    block. Stems and heads are not blocks.
    """
    last = {module: inside[-1] for module, inside in modules_of(nodes).items()}
    last |= {name: name for name in nodes}  # a module may be a layer as a whole
    names = {node: name for name, node in nodes.items()}

    def combines(path: str) -> bool:
        """Whether a module ends in its own sum or concatenation, possibly reshaped."""
        end = nodes[last[path]]
        while end.target in _RESHAPING:
            end = end.all_input_nodes[0]
        return end.target in _COMBINING and names.get(end, "").rpartition(".")[0] == path

    def blocks(module: nn.Module, path: str) -> list[str]:
        if path.startswith(_NO_BODY):
            return []
        inner = [
            found
            for name, child in module.named_children()
            for found in blocks(child, f"{path}.{name}".lstrip("."))
        ]
        weighted = sum(isinstance(each, nn.Linear | nn.Conv2d) for each in module.modules())
        in_a_row = isinstance(module, nn.Sequential | nn.ModuleList)
        if path not in last or weighted < _SEVERAL or in_a_row:
            return inner
        # A module that combines is more than the sequence of its parts.
        return [path] if len(inner) < _SEVERAL or combines(path) else inner

    ends = [last[path] for path in blocks(root, "")]
    # A bare convolution at the end makes two of them in a row, before their normalisation.
    found = [name for name in ends if not isinstance(module_of(root, nodes[name]), nn.Conv2d)]
    if len(found) > 1:
        return found
    return [name for name, node in nodes.items() if isinstance(module_of(root, node), nn.MaxPool2d)]
