"""The steps of a policy as torchvision makes them, and where their random numbers come from."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from inspect import signature
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torchvision.transforms import v2

from bottleneck.augment.warps import EdgeAffine, EdgeElastic

__all__ = ["OWN", "Seeded", "make_pipeline"]

OWN: dict[str, type[v2.Transform]] = {"EdgeAffine": EdgeAffine, "EdgeElastic": EdgeElastic}
"""Classes that policies may use beside those of ``torchvision.transforms.v2``."""

_DRAWING: set[Callable[..., Any]] = {
    torch.rand,
    torch.randn,
    torch.randint,
    torch.randperm,
    torch.bernoulli,
    torch.multinomial,
    torch.normal,
    torch._sample_dirichlet,  # noqa: SLF001 - AugMix draws from it
    torch.Tensor.bernoulli_,
    torch.Tensor.exponential_,
    torch.Tensor.normal_,
    torch.Tensor.random_,
    torch.Tensor.uniform_,
}
_DRAWING_LIKE = {torch.rand_like: torch.rand, torch.randn_like: torch.randn}


class Seeded(TorchFunctionMode):
    """Has this thread's draws come from a generator of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func in _DRAWING_LIKE:  # which take no generator in older versions of torch
            named = {"dtype": args[0].dtype} | named
            func, args = _DRAWING_LIKE[func], (args[0].shape,)
        if func in _DRAWING:
            named["generator"] = self._generator
        return func(*args, **named)


@lru_cache(maxsize=16)
def make_pipeline(text: str, size: tuple[int, int]) -> list[Any]:
    """Make the steps that a policy's `as_dict` names, for a base that takes this size."""
    return [_make(step, size) for step in json.loads(text)["steps"]]


def _make(step: Mapping[str, Any], size: tuple[int, int]) -> Any:
    ((name, arguments),) = step.items()
    kind = OWN.get(name) or getattr(v2, name)
    given = dict(arguments)
    if "transforms" in given:  # of RandomApply, RandomChoice and RandomOrder
        given["transforms"] = [_make(each, size) for each in given["transforms"]]
    if "size" in signature(kind).parameters:
        given["size"] = size
    made = kind(**given)
    if kind is v2.GaussianNoise:  # which takes no uint8 before torchvision 0.23
        before, after = (v2.ToDtype(dtype, scale=True) for dtype in (torch.float32, torch.uint8))
        return v2.Compose([before, made, after])
    return made
