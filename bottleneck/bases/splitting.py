"""A network in two: what stays frozen, and what is trained on top of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from bottleneck.bases.network import Network
from bottleneck.bases.tracing import ancestors, copied, module_of, tensors_at, with_tensors
from bottleneck.errors import UsageError
from bottleneck.names import find_layers

__all__ = ["ALL", "Split", "split_network", "upper_part"]

ALL = "all"
"""Stands for the whole network in place of a layer's name."""


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

    Returns
    -------
    Split
        The boundary, and what is trained above it.

    Raises
    ------
    UnknownNameError
        The network has no such layer.
    UsageError
        Nothing that could be trained lies between the two layers.
    """
    places = {node: place for place, node in enumerate(network.graph.nodes)}
    start = 0 if unfreeze == ALL else places[_first_operation(network, unfreeze)]
    used = sorted(ancestors([network.nodes[layer]]), key=places.__getitem__)
    below = [node for node in used if places[node] < start]
    above = used[len(below) :]
    kept = {name for node in below for name in tensors_at(network.root, node)}
    parameters = dict(network.root.named_parameters()).keys() - kept
    ends = sorted(places[network.nodes[name]] for name in network.blocks)[:-1]
    # How many blocks come after an operation's own; a stem is in the first.
    trained = {
        name: sum(places[node] <= end for end in ends)
        for node in above
        for name in tensors_at(network.root, node)
        if name in parameters
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
        boundary=_boundary(network, layer, below),
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
    graph, copies = copied(network.graph, [end], above=boundary)
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
    before, *others = node.all_input_nodes
    module = module_of(network.root, before)
    if others or before in named:
        return node
    if isinstance(module, nn.BatchNorm2d):
        return _with_its_weights(network, before)
    return before if isinstance(module, nn.Conv2d | nn.Linear) else node


def _input(network: Network) -> fx.Node:
    image: fx.Node = next(iter(network.graph.find_nodes(op="placeholder")))
    return image


def _boundary(network: Network, layer: str, below: Sequence[fx.Node]) -> str | None:
    """Return the last layer below that alone carries what a layer needs of the image."""
    names = {network.nodes[name]: name for name in network.layers}
    for node in reversed(below):
        if node in names and _input(network) not in ancestors([network.nodes[layer]], above=node):
            return names[node]
    return None
