"""Measure shapes and costs of activations without computing them."""

from typing import Any

import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["PROBE", "Costs", "Measured"]

PROBE = 13
"""A batch size that differs from every dimension of a model."""


class Costs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts multiply-adds, as `torch.utils.flop_counter` does.

    But it does not look into other operations, which takes several times longer than all else.

    Attributes
    ----------
    total : int
        Multiply-adds so far, of all images together.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count what it costs."""
        named = kwargs or {}
        found = func(*args, **named)
        count = flop_registry.get(func._overloadpacket)  # noqa: SLF001 - the registry's keys
        if count:
            self.total += count(*args, **named, out_val=found) // 2
        return found


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
        super().__init__(root, graph=graph)  # without the code of a GraphModule
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.costs: dict[fx.Node, int] = {}
        self.error: Exception | None = None
        self._from_images: set[fx.Node] = set()
        self._own_costs: dict[fx.Node, dict[fx.Node, int]] = {}
        with Costs() as self._counted:
            try:
                self.run(torch.empty(PROBE, 3, *image_size, device="meta"))
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
        before = self._counted.total
        result = super().run_node(node)
        own = (self._counted.total - before) // PROBE
        # An operation that two others use is counted once.
        needed = {node: own} if own else {}
        for each in node.all_input_nodes:
            needed |= self._own_costs[each]
        self._own_costs[node] = needed
        self.costs[node] = sum(needed.values())
        if node.op == "placeholder" or not self._from_images.isdisjoint(node.all_input_nodes):
            self._from_images.add(node)
            if isinstance(result, torch.Tensor) and result.dim() > 1 and len(result) == PROBE:
                self.shapes[node] = tuple(result.shape[1:])
        return result
