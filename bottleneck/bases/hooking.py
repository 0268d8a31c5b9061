"""Run a network as it is, and take what its modules return by forward hooks."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import fx, nn

from bottleneck.bases.building import built, built_size, check_network, on_meta, without_output
from bottleneck.bases.graphs import TENSORS, replace_tensors, tensors_of
from bottleneck.bases.measuring import PROBE
from bottleneck.bases.recording import Result, Run, tensors_in

__all__ = ["Hooked", "own_result"]

_SMALL = 3
"""A batch size for networks that have to compute values to be measured,"""
_WEIGHT = 0.01
"""and the value of all their weights."""


def own_result(*inputs: Any) -> None:
    """Stand for what a module computes from its modules' results, in a graph that is not run.

    Parameters
    ----------
    *inputs : Any
        Nodes of the graph.
    """


class Hooked:
    """A model in evaluation mode as a sequence of the results of its modules.

    It has the attributes and methods of `bottleneck.bases.tracing.Traced`, but the model is always
    run from the images on, up to the deepest activation that is needed. Its graph, which nothing
    runs, has an operation for each result, in the order of computation. Each depends on everything
    before it, as nothing is known of what is computed between modules.

    A module that calls no other gives a layer of its own name. Another one gives a layer
    ``.forward`` if it computes something from the results of the modules inside. What a module
    takes is its layer ``.input``, if no module has given it.

    Parameters
    ----------
    build : callable
        Returns the model.
    image_size : (int, int)
        Height and width in pixels of the usual images.
    reason : str
        The reason why it cannot be traced.

    Raises
    ------
    UsageError
        The model takes several inputs, or gives no tensor with a row per image.
    """

    def __init__(
        self, build: Callable[[], nn.Module], image_size: tuple[int, int], reason: str
    ) -> None:
        self._build, self.reason = build, reason
        self.root = on_meta(build).requires_grad_(requires_grad=False)
        check_network(self.root)
        self.image_size = built_size(self.root) or image_size
        run = self._first_run(self.image_size)
        self._results = {each.name: each for each in run.results}
        held = self.root.state_dict().keys()
        others = [name for name, _ in self.root.named_buffers() if name not in held]
        values = dict(built(build).named_buffers()) if others else {}
        self.constants = {name: values[name] for name in others}
        self.graph, self.nodes = self._graph(run)
        self.measure = cache(lambda size: _Measured(self._run(size), self.nodes))

    def _first_run(self, size: tuple[int, int]) -> "Run":
        """Run the model where it can be: on the meta device, else on the CPU with few images.

        There its weights are all one number, which takes no memory, unless it needs its own.
        """
        self._probe, self._count = self.root, PROBE
        run = self._run(size)
        if run.error:
            self._probe, self._count = _with_one_weight(built(self._build)), _SMALL
            run = self._run(size)
        if run.error:
            with torch.random.fork_rng(devices=[]):
                self._probe = self._build().eval()
            run = self._run(size)
        if run.error:
            raise run.error
        if run.output is None:
            raise without_output()
        return run

    def _run(self, size: tuple[int, int]) -> "Run":
        device = next((each.device for each in self._probe.parameters()), "cpu")
        return Run(self._probe, torch.zeros(self._count, 3, *size, device=device))

    def _graph(self, run: "Run") -> tuple[fx.Graph, dict[str, fx.Node]]:
        graph, nodes = fx.Graph(), dict[str, fx.Node]()
        images = before = graph.placeholder("images")
        for each in run.results:
            inputs = (nodes.get(each.source, before), before, images)
            if each.leaf:
                node = graph.call_module(each.module, inputs)
            else:
                node = graph.call_function(own_result, inputs)
            nodes[each.name] = before = node
            node.meta[TENSORS] = []
        graph.output(nodes[str(run.output)])
        # A tensor belongs to the first operation in its module; if that is never called, as the
        # code around it uses its weights, to that of the module around it.
        for name in tensors_of(self.root):
            module = name.rpartition(".")[0]
            while module not in run.first:
                module = module.rpartition(".")[0]
            nodes[run.first[module]].meta[TENSORS].append(name)
        return graph, nodes

    def module(
        self,
        outputs: Mapping[str, fx.Node] | fx.Node,
        tensors: Mapping[str, torch.Tensor],
        above: fx.Node | None = None,  # noqa: ARG002 - there is no part of a network to run
    ) -> nn.Module:
        """Return a module that runs the model up to the deepest of some activations.

        Parameters
        ----------
        outputs : fx.Node or dict of str to fx.Node
            What to compute.
        tensors : mapping of str to torch.Tensor
            At least the parameters and buffers that affect them, constants included.
        above : fx.Node, optional
            Not used, as the input is always images.

        Returns
        -------
        torch.nn.Module
            Maps a batch to the activation, or to a dict of them, in evaluation mode and without
            gradients.
        """
        results = {node: self._results[name] for name, node in self.nodes.items()}
        several = not isinstance(outputs, fx.Node)
        given = {"": outputs} if isinstance(outputs, fx.Node) else outputs
        wanted = {key: results[node] for key, node in given.items()}
        network = built(self._build)
        replace_tensors(network, tensors)
        for name, each in tensors_of(network).items():
            if name not in tensors and isinstance(each, nn.Parameter):
                each.data = torch.empty(0)  # of a module that is not reached
        return _Cut(network, wanted, several=several)


def _with_one_weight(network: nn.Module) -> nn.Module:
    """Replace each parameter by a tensor of its shape that stores a single number."""
    for each in network.parameters():
        if each.is_floating_point():
            each.data = torch.full((), _WEIGHT, dtype=each.dtype).expand(each.shape)
    return network.requires_grad_(requires_grad=False)


class _Measured:
    """Shapes and costs of a run, as `bottleneck.bases.tracing.Measured` has them."""

    def __init__(self, run: "Run", nodes: Mapping[str, fx.Node]) -> None:
        known = [(nodes[each.name], each) for each in run.results if each.name in nodes]
        self.shapes = {node: each.shape for node, each in known if each.shape is not None}
        self.costs = {node: each.cost for node, each in known}
        self.error = run.error


class _Reached(Exception):  # noqa: N818 - no error: the deepest activation is computed
    pass


class _Cut(nn.Module):
    """A network that stops after the deepest of some results.

    It has the same tensors by the same names as the network. The network's own code stays in
    evaluation mode; the modules inside can be switched.
    """

    def __init__(self, network: nn.Module, wanted: Mapping[str, Result], *, several: bool) -> None:
        super().__init__()
        for shared in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            setattr(self, shared, getattr(network, shared))
        object.__setattr__(self, "_network", network)  # not as a module, which would have a name
        self._wanted, self._several = dict(wanted), several
        for path in {each.module for each in wanted.values()}:
            module = network.get_submodule(path)
            module.register_forward_pre_hook(partial(_keep_taken, path), with_kwargs=True)
            module.register_forward_hook(partial(_keep_returned, path))

    def forward(self, images: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Compute the results for a batch of images."""
        network: Any = self._network
        waiting = {
            (each.module, each.call, each.taken, each.keys): key
            for key, each in self._wanted.items()
        }
        kept = _Kept(waiting, Counter(), {})
        token = _NOW.set(kept)
        try:
            with suppress(_Reached):
                network(images)
        finally:
            _NOW.reset(token)
        found = {key: kept.found[key] for key in self._wanted}
        return found if self._several else found[""]


@dataclass(frozen=True)
class _Kept:
    """The results of one pass."""

    waiting: dict[tuple[str, int, bool, tuple[Any, ...]], str]
    calls: Counter[str]
    found: dict[str, torch.Tensor]

    def look(self, path: str, values: Any, *, taken: bool) -> None:
        """Keep what is wanted of values, and stop the pass after the last."""
        before = len(self.waiting)
        for keys, tensor in tensors_in(values):
            key = self.waiting.pop((path, self.calls[path], taken, keys), None)
            if key is not None:
                # A later in-place operation may change it.
                self.found[key] = tensor.clone() if self.waiting else tensor
        # Exporters lose count of the modules that an error leaves; they drop what is not used.
        if before and not self.waiting and not torch.compiler.is_exporting():
            raise _Reached


_NOW: ContextVar[_Kept | None] = ContextVar("_NOW", default=None)
"""The pass of this thread; others may run the same network."""


def _keep_taken(path: str, _module: nn.Module, inputs: Any, named: Any) -> None:
    if now := _NOW.get():
        now.look(path, (inputs, named), taken=True)


def _keep_returned(path: str, _module: nn.Module, _inputs: Any, returned: Any) -> None:
    if now := _NOW.get():
        now.look(path, returned, taken=False)
        now.calls[path] += 1
