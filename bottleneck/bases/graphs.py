"""Operations of a graph, and the tensors of modules."""

from collections.abc import Iterable, Mapping

import torch
from torch import fx, nn

__all__ = [
    "TENSORS",
    "ancestors",
    "assign",
    "module_of",
    "replace_tensors",
    "tensors_at",
    "tensors_of",
]

_COUNTER = "num_batches_tracked"
TENSORS = "tensors"
"""Key of a node's `meta` for the tensors that it reads, where it does not tell them itself."""


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
    if TENSORS in node.meta:
        return list(node.meta[TENSORS])
    if node.op == "get_attr":
        return [str(node.target)]
    module = module_of(root, node)
    names = tensors_of(module) if module else ()
    return [f"{node.target}.{name}" for name in names]


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers of a module that have an effect, by name.

    A counter of training batches has none.

    Parameters
    ----------
    module : torch.nn.Module
        Any module.

    Returns
    -------
    dict of str to torch.Tensor
        The same tensor several times, if modules share it.
    """
    found: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    found |= module.named_buffers(remove_duplicate=False)
    return {name: each for name, each in found.items() if not name.endswith(_COUNTER)}


def assign(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Replace a parameter or buffer by a tensor.

    Parameters
    ----------
    module : torch.nn.Module
        The module, which is changed.
    name : str
        Name of the tensor in the module.
    tensor : torch.Tensor
        Its new value.
    """
    path, _, attribute = name.rpartition(".")
    owner = module.get_submodule(path)
    if isinstance(getattr(owner, attribute), nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=False)
    setattr(owner, attribute, tensor)


def replace_tensors(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give a module its weights, and freeze it in evaluation mode.

    Parameters
    ----------
    module : torch.nn.Module
        The module, which is changed.
    tensors : mapping of str to torch.Tensor
        Parameters and buffers by name; used directly, without a copy.
    """
    for name in tensors_of(module):
        if name in tensors:
            assign(module, name, tensors[name])
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.num_batches_tracked = None  # it decides nothing, and has no value here
    module.eval().requires_grad_(requires_grad=False)
