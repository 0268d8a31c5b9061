"""Split a network into a frozen lower part and a trained upper part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from bottleneck.arguments import find_layers
from bottleneck.bases.graphs import ancestors, module_of, tensors_at
from bottleneck.bases.network import Network
from bottleneck.errors import UsageError

__all__ = ["ALL", "Split", "split_network", "upper_part"]

ALL = "all"
"""Means the whole network, in place of a layer's name."""


@dataclass(frozen=True)
class Split:
    """The result of splitting a network.

    Attributes
    ----------
    boundary : str or None
        The layer whose activation is the only input of the upper part; None if that is the image.
    layer : str
        The last layer of the upper part.
    trained : dict of str to int
        Trained parameters, with the number of blocks between each and the last trained block.
    modules : tuple of str
        Modules of these parameters, and modules without parameters among them.
    """

    boundary: str | None
    layer: str
    trained: dict[str, int]
    modules: tuple[str, ...]


def split_network(network: Network, unfreeze: str, layer: str) -> Split:
    """Split a network before the first operation to train.

    A layer and everything after it in the order of computation is trained; for a module, its first
    operation counts, and an alias includes operations without an alias of their own: VGG's
    ``block5_conv1`` is a convolution and its ReLU. The boundary is the last point before it at
    which the rest needs only one activation: in residual networks the end of the previous block.
    Operations between the boundary and the first trained one belong to the upper part, but are not
    trained.

    Parameters
    ----------
    network : Network
        The network.
    unfreeze : str
        A layer, an alias or a module; or ``all``.
    layer : str
        The last layer that is used, from `Network.resolve`.

    Returns
    -------
    Split
        The boundary, and the parameters to train above it.

    Raises
    ------
    UnknownNameError
        The network does not have the layer.
    UsageError
        There are no parameters to train between the two layers.
    """
    places = {node: place for place, node in enumerate(network.graph.nodes)}
    start = 0 if unfreeze == ALL else places[_first_operation(network, unfreeze)]
    used = sorted(ancestors([network.nodes[layer]]), key=places.__getitem__)
    below = [node for node in used if places[node] < start]
    above = used[len(below) :]
    kept = {name for node in below for name in tensors_at(network.root, node)}
    parameters = dict(network.root.named_parameters()).keys() - kept
    ends = sorted(places[network.nodes[name]] for name in network.blocks)[:-1]
    # Number of blocks after an operation's own block; a stem belongs to the first.
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
            f"{network.alias(layer) or layer!r}; give an earlier one with `unfreeze`: "
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


def upper_part(network: Network, split: Split, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return the network from the boundary to the split's last layer.

    Parameters
    ----------
    network : Network
        The split network.
    split : Split
        The result of `split_network`.
    tensors : mapping of str to torch.Tensor
        At least the weights that affect the layer, constants included; they are copied.

    Returns
    -------
    torch.nn.Module
        Maps activations of the boundary (n, ...), or images (n, 3, height, width), to those of the
        layer; float32, in evaluation mode. Only trained parameters have gradients. Modules that
        check their mode when called obey ``train()``: batch normalisation, dropout and stochastic
        depth of torchvision. Code of the model itself stays in evaluation mode, in which it was
        traced.
    """
    boundary = network.nodes[split.boundary] if split.boundary else _input(network)
    own = {
        name: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        for name, tensor in network.at_size(dict(tensors)).items()
    }
    module = network.operations.module(network.nodes[split.layer], own, above=boundary)
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
    """Return the convolution that an activation's alias includes, or the node itself."""
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
    """Return the last layer in `below` that is the only input of the rest."""
    names = {network.nodes[name]: name for name in network.layers}
    for node in reversed(below):
        if node in names and _input(network) not in ancestors([network.nodes[layer]], above=node):
            return names[node]
    return None
