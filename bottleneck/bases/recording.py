"""Record what the modules of a network return for some images."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bottleneck.bases.measuring import Costs

__all__ = ["Result", "Run", "tensors_in"]

_OWN, _TAKEN = "forward", "input"
"""In the name of what a module itself computes, which no module inside it can have, or takes."""


@dataclass(frozen=True)
class Result:
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


class Run:
    """What the modules of a network return for some images.

    Parameters
    ----------
    network : torch.nn.Module
        The network.
    images : torch.Tensor
        Shape (n, 3, height, width).

    Attributes
    ----------
    results : list of Result
        In the order of computation.
    first : dict of str to str
        Module to the first result of it or of a module in it.
    output : str or None
        The result that the network returns, the first of several; None if it has no row per image.
    error : Exception or None
        The error that stopped the run.
    """

    def __init__(self, network: nn.Module, images: torch.Tensor) -> None:
        self.results: list[Result] = []
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
            self._counted = stack.enter_context(Costs())
            try:
                network(images)
            except Exception as error:  # whatever a model's own code raises  # noqa: BLE001
                self.error = error
        self._known.clear()

    def _enter(self, path: str, inputs: Any) -> None:
        keys, tensor = next(tensors_in(inputs), ((), None))
        if self._has_rows(tensor) and id(tensor) not in self._known:
            self._note(path, keys, tensor, inputs, taken=True)
        self._places.append(len(self.results))

    def _leave(self, path: str, inputs: Any, returned: Any) -> None:
        place = self._places.pop()
        leaf = place == len(self.results)
        found = list(tensors_in(returned)) or [((), None)]
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
        known = (self._known.get(id(each)) for _, each in tensors_in(inputs))
        self.results.append(
            Result(
                name=name,
                module=path,
                call=self._calls[path],
                keys=keys,
                source=next((each[0] for each in known if each), ""),
                leaf=leaf,
                taken=taken,
                shape=tuple(tensor.shape[1:]) if self._has_rows(tensor) else None,
                cost=self._counted.total // self._count,
            )
        )
        if tensor is not None:
            self._known[id(tensor)] = name, tensor


def tensors_in(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the tensors in tuples, lists and dicts, with the keys that lead to each.

    Parameters
    ----------
    value : Any
        What a module takes or returns.
    keys : tuple
        The keys that lead to the value itself.

    Yields
    ------
    keys : tuple
        Keys and indices, the outer ones first.
    tensor : torch.Tensor
    """
    if isinstance(value, torch.Tensor):
        yield keys, value
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, tuple | list):
        inner = enumerate(value)
    for key, each in inner:
        yield from tensors_in(each, (*keys, key))


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
