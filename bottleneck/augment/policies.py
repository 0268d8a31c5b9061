"""Augmentation policies: views of an image that depend on its digest and their number alone."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode
from torchvision.transforms import v2

from bottleneck.augment.warps import EdgeAffine, EdgeElastic
from bottleneck.errors import UsageError, first_line, is_out_of_memory

__all__ = ["OWN", "POLICIES", "STEPS", "Policy", "Step"]

_SCHEME = 1
"""Counts changes to how views are seeded, and to what our own classes do."""

Step = tuple[str, Mapping[str, Any]]
OWN: dict[str, type[v2.Transform]] = {"EdgeAffine": EdgeAffine, "EdgeElastic": EdgeElastic}
"""Classes that policies may use beside those of ``torchvision.transforms.v2``."""

_FLIP: Step = ("RandomHorizontalFlip", {"p": 0.5})
STEPS: dict[str, tuple[Step, ...]] = {
    "none": (),
    "flip": (_FLIP,),
    "standard": (("EdgeAffine", {"degrees": 40, "shift": 0.2, "shear": 0.2, "zoom": 0.2}), _FLIP),
    "crop": (("RandomResizedCrop", {"scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3]}), _FLIP),
    "color": (
        ("ColorJitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}),
    ),
    "noise": (("GaussianNoise", {"sigma": 0.1}),),
    "elastic": (("EdgeElastic", {"shift": 0.016, "smooth": 0.08}),),
    "trivial": (("TrivialAugmentWide", {}),),
}
POLICIES = tuple(STEPS)

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


@dataclass(frozen=True)
class Policy:
    """How images are augmented.

    Attributes
    ----------
    name : str
        One of `POLICIES`, or the name of the YAML file that it comes from.
    steps : tuple of (str, mapping)
        One after the other: a class of ``torchvision.transforms.v2``, or of `OWN`, and its
        arguments. A ``size`` that a class needs is that of the base.
    """

    name: str
    steps: tuple[Step, ...]

    @classmethod
    def from_dict(cls, name: str, content: Mapping[str, Any]) -> Self:
        """Return the policy whose `as_dict` this was."""
        return cls(name, tuple(pair for step in content["steps"] for pair in step.items()))

    @property
    def whole(self) -> bool:
        """Whether it takes the whole decoded image rather than the pixels that the base sees."""
        return bool(self.steps) and self.steps[0][0] == "RandomResizedCrop"

    def as_dict(self) -> dict[str, Any]:
        """Return all that decides the pixels, as JSON has it; the name does not."""
        steps = [{name: dict(arguments)} for name, arguments in self.steps]
        return {"scheme": _SCHEME, "steps": json.loads(json.dumps(steps, allow_nan=False))}

    def pipeline(self, size: tuple[int, int]) -> Sequence[Any]:
        """Return the steps for a base that takes this height and width.

        Raises
        ------
        UsageError
            A class does not take its arguments.
        """
        try:
            return _pipeline(json.dumps(self.as_dict(), sort_keys=True), tuple(size))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise UsageError(
                f"augmentation {self.name!r} cannot be made ({first_line(error)}); see the "
                f"arguments that torchvision.transforms.v2 takes"
            ) from error

    def augment(
        self, pixels: torch.Tensor, digest: str, view: int, size: tuple[int, int]
    ) -> torch.Tensor:
        """Return one view of an image, the same whenever and wherever it is asked for.

        Threads may call it at once: nothing is drawn from torch's global generator.

        Parameters
        ----------
        pixels : torch.Tensor
            uint8 of shape (3, h, w): if `whole`, the decoded image in any size, else what the base
            sees of it, of that `size`.
        digest : str
            SHA-256 of the image file.
        view : int
            From 1 on; view 0 is the plain image, which no policy makes.
        size : (int, int)
            Height and width that the base takes.

        Returns
        -------
        torch.Tensor
            uint8 of shape (3, height, width), as `size` says.

        Raises
        ------
        UsageError
            A step cannot be applied, or pixels of another type or size came out.
        """
        pipeline = self.pipeline(size)
        text = f"{digest} {view} {json.dumps(self.as_dict(), sort_keys=True)}"
        seed = hashlib.sha256(text.encode()).digest()
        view_of: Any = pixels
        with _Seeded(int.from_bytes(seed[:8], "big") >> 1):
            for (name, _), step in zip(self.steps, pipeline, strict=True):
                try:
                    view_of = step(view_of)
                except Exception as error:
                    if is_out_of_memory(error):
                        raise
                    raise _wrong_step(self.name, name, error) from error
        _check_view(self.name, view_of, size)
        found: torch.Tensor = view_of.contiguous()
        return found


class _Seeded(TorchFunctionMode):
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
def _pipeline(text: str, size: tuple[int, int]) -> list[Any]:
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


def _wrong_step(policy: str, name: str, error: Exception) -> UsageError:
    return UsageError(
        f"step {name} of augmentation {policy!r} failed ({first_line(error)}); see what "
        f"torchvision.transforms.v2 says of it"
    )


def _check_view(policy: str, found: Any, size: tuple[int, int]) -> None:
    wanted = (3, *size)
    if isinstance(found, torch.Tensor) and found.dtype == torch.uint8 and found.shape == wanted:
        return
    is_tensor = isinstance(found, torch.Tensor)
    what = f"{found.dtype} {tuple(found.shape)}" if is_tensor else type(found).__name__
    raise UsageError(
        f"augmentation {policy!r} gives {what} where torch.uint8 {wanted} was expected; leave out "
        f"steps that change type or size, or end with CenterCrop"
    )
