"""Run a network as it is, and take what its modules return by forward hooks."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from bottleneck.bases.building import built, built_size, check_inputs, on_meta
from bottleneck.bases.tracing import PROBE, TENSORS, replace_tensors, tensors_of
from bottleneck.errors import UsageError

__all__ = ["Hooked", "own_result"]

_SMALL = 3
"""A batch size for networks that have to compute values to be measured."""
_OWN, _TAKEN = "forward", "input"
"""In the name of what a module itself computes, which no module inside it can have, or takes."""


def own_result(*inputs: Any) -> None:
    """Stand for what a module computes from its modules' results, in a graph that is not run."""


@dataclass(frozen=True)
class _Result:
    """A result of a module: the tensor at `keys` of what its call of that number returns.

    Or what it takes, if `taken` is true. `source` is the result that the module takes, if it is
    one; `shape` that of one image's activation, if it is a tensor with a row per image; `cost` the
    multiply-adds up to it.
    """

    name: str
    module: str
    call: int
    keys: tuple[Any, ...]
    source: str
    leaf: bool
    taken: bool
    shape: tuple[int, ...] | None
    cost: int


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
        check_inputs(self.root)
        self.image_size = built_size(self.root) or image_size
        run = self._first_run(self.image_size)
        self._results = {each.name: each for each in run.results}
        held = self.root.state_dict().keys()
        others = [name for name, _ in self.root.named_buffers() if name not in held]
        values = dict(built(build).named_buffers()) if others else {}
        self.constants = {name: values[name] for name in others}
        self.graph, self.nodes = self._graph(run)
        self.measure = cache(lambda size: _Measured(self._run(size), self.nodes))

    def _first_run(self, size: tuple[int, int]) -> "_Run":
        """Run the model where it can be: on the meta device, else on the CPU with few images."""
        self._probe, self._count = self.root, PROBE
        if self._run(size).error:
            with torch.random.fork_rng(devices=[]):
                self._probe, self._count = self._build().eval(), _SMALL
        run = self._run(size)
        if run.error:
            raise run.error
        if run.output is None:
            raise UsageError(
                "its output has no tensor with a row for each image; expected a network that maps "
                "images to a tensor, or to several in a tuple or dict"
            )
        return run

    def _run(self, size: tuple[int, int]) -> "_Run":
        device = next((each.device for each in self._probe.parameters()), "cpu")
        return _Run(self._probe, torch.zeros(self._count, 3, *size, device=device))

    def _graph(self, run: "_Run") -> tuple[fx.Graph, dict[str, fx.Node]]:
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
        wanted = {key: results[node] for key, node in outputs.items()} if several else {
            "": results[outputs]
        }
        network = built(self._build)
        replace_tensors(network, tensors)
        for name, each in tensors_of(network).items():
            if name not in tensors and isinstance(each, nn.Parameter):
                each.data = torch.empty(0)  # of a module that is not reached
        return _Cut(network, wanted, several=several)


class _Measured:
    """Shapes and costs of a run, as `bottleneck.bases.tracing.Measured` has them."""

    def __init__(self, run: "_Run", nodes: Mapping[str, fx.Node]) -> None:
        known = [(nodes[each.name], each) for each in run.results if each.name in nodes]
        self.shapes = {node: each.shape for node, each in known if each.shape is not None}
        self.costs = {node: each.cost for node, each in known}
        self.error = run.error


class _Run:
    """What the modules of a network return for some images.

    Attributes
    ----------
    results : list of _Result
        In the order of computation.
    first : dict of str to str
        Module to the first result of it or of a module in it.
    output : str or None
        The result that the network returns, the first of several; None if it has no row per image.
    error : Exception or None
        The error that stopped the run.
    """

    def __init__(self, network: nn.Module, images: torch.Tensor) -> None:
        self.results: list[_Result] = []
        self.first: dict[str, str] = {}
        self.output: str | None = None
        self.error: Exception | None = None
        self._count = len(images)
        self._calls: Counter[str] = Counter()
        self._names: Counter[str] = Counter()
        self._places: list[int] = []
        self._known: dict[int, tuple[str, Any]] = {id(images): ("", images)}
        """The name of each tensor by its id, with the tensor, so that no other gets its id."""
        with ExitStack() as stack, torch.no_grad():
            for path, module in network.named_modules():
                stack.enter_context(_hooked(module, self._enter, path, before=True))
                stack.enter_context(_hooked(module, self._leave, path))
            self._counter = stack.enter_context(FlopCounterMode(display=False))
            try:
                network(images)
            except Exception as error:  # whatever a model's own code raises  # noqa: BLE001
                self.error = error
        self._known.clear()

    def _enter(self, path: str, inputs: Any) -> None:
        keys, tensor = next(_tensors_in(inputs), ((), None))
        if self._has_rows(tensor) and id(tensor) not in self._known:
            self._note(path, keys, tensor, inputs, taken=True)
        self._places.append(len(self.results))

    def _leave(self, path: str, inputs: Any, returned: Any) -> None:
        place = self._places.pop()
        leaf = place == len(self.results)
        found = list(_tensors_in(returned)) or [((), None)]
        for keys, tensor in found:
            if leaf or tensor is None or id(tensor) not in self._known:
                self._note(path, keys, tensor, inputs, leaf=leaf)
        self.first.setdefault(path, self.results[place].name)
        self._calls[path] += 1
        if not path:
            rows = {each.name for each in self.results if each.shape is not None}
            names = [self._known[id(each)][0] for _, each in found if each is not None]
            self.output = next((name for name in names if name in rows), None)

    def _has_rows(self, tensor: Any) -> bool:
        return tensor is not None and tensor.dim() > 1 and len(tensor) == self._count

    def _note(
        self,
        path: str,
        keys: tuple[Any, ...],
        tensor: Any,
        inputs: Any,
        *,
        leaf: bool = False,
        taken: bool = False,
    ) -> None:
        own = ((_OWN, *keys), keys)[leaf and bool(path) and not keys] if not taken else (_TAKEN,)
        base = ".".join(filter(None, (path, *map(str, own))))
        name = f"{base}_{self._names[base]}" if self._names[base] else base
        self._names[base] += 1
        known = (self._known.get(id(each)) for _, each in _tensors_in(inputs))
        self.results.append(
            _Result(
                name=name,
                module=path,
                call=self._calls[path],
                keys=keys,
                source=next((each[0] for each in known if each), ""),
                leaf=leaf,
                taken=taken,
                shape=tuple(tensor.shape[1:]) if self._has_rows(tensor) else None,
                cost=self._counter.get_total_flops() // (2 * self._count),
            )
        )
        if tensor is not None:
            self._known[id(tensor)] = name, tensor


class _Reached(Exception):  # noqa: N818 - no error: the deepest activation is computed
    pass


class _Cut(nn.Module):
    """A network that stops after the deepest of some results.

    It has the same tensors by the same names as the network. The network's own code stays in
    evaluation mode; the modules inside can be switched.
    """

    def __init__(
        self, network: nn.Module, wanted: Mapping[str, _Result], *, several: bool
    ) -> None:
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
        for keys, tensor in _tensors_in(values):
            key = self.waiting.pop((path, self.calls[path], taken, keys), None)
            if key is not None:
                # A later in-place operation may change it.
                self.found[key] = tensor.clone() if self.waiting else tensor
        if before and not self.waiting:
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


def _tensors_in(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the tensors in tuples, lists and dicts, with the keys that lead to each."""
    if isinstance(value, torch.Tensor):
        yield keys, value
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, tuple | list):
        inner = enumerate(value)
    for key, each in inner:
        yield from _tensors_in(each, (*keys, key))


@contextmanager
def _hooked(
    module: nn.Module, note: Callable[..., None], path: str, *, before: bool = False
) -> Iterator[None]:
    """Call a function with the path, inputs and result of each call of a module."""

    def hook(_module: nn.Module, inputs: Any, named: Any, *returned: Any) -> None:
        note(path, (inputs, named), *returned)

    if before:
        handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    else:
        handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
