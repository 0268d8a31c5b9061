"""A network in two: what stays frozen, and what is trained on top of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from bottleneck.bases.layers import ancestors, module_of
from bottleneck.bases.network import Network
from bottleneck.bases.tracing import with_tensors
from bottleneck.errors import UsageError
from bottleneck.names import find_layers

__all__ = ["ALL", "Split", "split_network", "upper_part"]

ALL = "all"
"""Stands for the whole network in place of a layer's name."""

_WEIGHTED = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class Split:
    """Where a network is divided.

    Attributes
    ----------
    boundary : str or None
        The layer whose activation is all that the upper part needs; None where that is the image.
    layer : str
        Where the upper part ends.
    trained : dict of str to int
        The parameters that are trained, to how many blocks lie between each and the last trained
        one.
    modules : tuple of str
        The modules whose parameters these are, or that have none and stand among them.
    """

    boundary: str | None
    layer: str
    trained: dict[str, int]
    modules: tuple[str, ...]


def split_network(network: Network, unfreeze: str, layer: str) -> Split:
    """Divide a network below the first operation that is to be trained.

    Trained is what comes at or after a layer in the order of computation; of a module, its first
    operation counts, and an alias includes what has no alias of its own: VGG's ``block5_conv1`` is
    a convolution and its ReLU. The boundary is the last point before it where one activation is all
    that the rest needs: in residual networks the end of the block before. What lies between the
    two is computed with the upper part, but is not trained.

    Parameters
    ----------
    network : Network
        Any.
    unfreeze : str
        A layer, an alias or a module; or ``all``.
    layer : str
        Up to where the network is used; as `Network.resolve` returns it.

    Raises
    ------
    UnknownNameError
        The network has no such layer.
    UsageError
        Nothing that could be trained lies between the two layers.
    """
    places = {node: place for place, node in enumerate(network.graph.nodes)}
    start = 0 if unfreeze == ALL else places[_first_operation(network, unfreeze)]
    used = ancestors([network.nodes[layer]])
    above = [node for node in network.graph.nodes if node in used and places[node] >= start]
    parameters = dict(network.root.named_parameters())
    below = {
        name for node in used if places[node] < start for name in _tensors_at(node, parameters)
    }
    depths = _depths(network, places, above)
    trained = {
        name: depths[node]
        for node in above
        for name in _tensors_at(node, parameters)
        if name not in below
    }
    if not trained:
        where = "lies above" if not above else "has nothing to train between itself and"
        raise UsageError(
            f"layer {unfreeze!r} of {network.name} {where} the head's layer "
            f"{network.alias(layer) or layer!r}; name one below with `unfreeze`: "
            f"'bottleneck layers {network.name}' lists them in order"
        )
    top = min(trained.values())
    modules = [str(node.target) for node in above if node.op == "call_module"]
    return Split(
        boundary=_boundary(network, places, used, start),
        layer=layer,
        trained={name: depth - top for name, depth in trained.items()},
        modules=tuple(dict.fromkeys(modules)),
    )


def upper_part(
    network: Network, split: Split, tensors: Mapping[str, torch.Tensor]
) -> fx.GraphModule:
    """Return the network from the boundary to the layer where the split ends.

    Parameters
    ----------
    network : Network
        That was split.
    split : Split
        Where.
    tensors : mapping of str to torch.Tensor
        At least the weights that decide the layer, constants included; copied.

    Returns
    -------
    torch.fx.GraphModule
        Maps the boundary's activations (n, ...), or images (n, 3, height, width), to those of the
        layer, in evaluation mode. float32; only what is trained has gradients. What a module
        decides as it is called obeys ``train()``: batch normalisation, dropout and stochastic depth
        of torchvision. What a model's code decides by itself is as in evaluation, for so it was
        traced.
    """
    boundary = network.nodes[split.boundary] if split.boundary else _input(network)
    end = network.nodes[split.layer]
    needed = ancestors([end], above=boundary)
    graph = fx.Graph()
    copies = {boundary: graph.placeholder("activations")}
    for node in network.graph.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[end])
    own = {
        name: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        for name, tensor in tensors.items()
    }
    module = with_tensors(network.root, graph, own)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in split.trained)
    return module


def _first_operation(network: Network, unfreeze: str) -> fx.Node:
    if unfreeze in network.modules and unfreeze not in network.aliases:
        first, *_ = find_layers(unfreeze, dict.fromkeys(network.nodes, ()), whole=True)
        return network.nodes[first]
    node = network.nodes[network.resolve(unfreeze)[0]]
    return _with_its_weights(network, node) if unfreeze in network.aliases else node


def _with_its_weights(network: Network, node: fx.Node) -> fx.Node:
    """Go back to the convolution that an alias of its activation includes."""
    named = {network.nodes[layer] for layer in network.aliases.values()}
    while len(node.all_input_nodes) == 1:
        (before,) = node.all_input_nodes
        module = module_of(network.root, before)
        if before in named or not isinstance(module, (*_WEIGHTED, nn.BatchNorm2d)):
            break
        node = before
        if isinstance(module, _WEIGHTED):
            break
    return node


def _input(network: Network) -> fx.Node:
    image: fx.Node = next(iter(network.graph.find_nodes(op="placeholder")))
    return image


def _boundary(
    network: Network, places: Mapping[fx.Node, int], used: set[fx.Node], start: int
) -> str | None:
    """Return the last layer before a place that alone carries what the rest needs."""
    names = {network.nodes[name]: name for name in network.layers}
    image = _input(network)
    from_images = {image}
    last_use: dict[fx.Node, int] = {}
    for node in network.graph.nodes:
        if node in used and (node is image or not from_images.isdisjoint(node.all_input_nodes)):
            from_images.add(node)
            last_use[node] = max((places[user] for user in node.users if user in used), default=-1)
    for place in range(start - 1, places[image], -1):
        crossing = [node for node, last in last_use.items() if places[node] <= place < last]
        if len(crossing) == 1 and crossing[0] in names:
            return names[crossing[0]]
    return None


def _depths(
    network: Network, places: Mapping[fx.Node, int], nodes: list[fx.Node]
) -> dict[fx.Node, int]:
    """Return for each operation how many blocks come after its own; a stem is in the first."""
    ends = sorted(places[network.nodes[name]] for name in network.blocks)[:-1]
    return {node: sum(places[node] <= end for end in ends) for node in nodes}


def _tensors_at(node: fx.Node, parameters: Mapping[str, Any]) -> list[str]:
    """Return the names of the parameters that an operation reads."""
    if node.op == "get_attr":
        return [name for name in [str(node.target)] if name in parameters]
    if node.op != "call_module":
        return []
    return [name for name in parameters if name.startswith(f"{node.target}.")]
