"""Augmentation policies: views of an image that depend on its digest and their number alone."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from bottleneck.errors import UsageError, first_line, is_out_of_memory

if TYPE_CHECKING:
    import torch

__all__ = ["POLICIES", "STEPS", "Policy", "Step"]

_SCHEME = 1
"""Counts changes to how views are seeded, and to what our own classes do."""

Step = tuple[str, Mapping[str, Any]]
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


@dataclass(frozen=True)
class Policy:
    """How images are augmented.

    Attributes
    ----------
    name : str
        One of `POLICIES`, or the name of the YAML file that it comes from.
    steps : tuple of (str, mapping)
        One after the other: a class of ``torchvision.transforms.v2``, or `EdgeAffine` or
        `EdgeElastic`, and its
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
        from bottleneck.augment.pipelines import make_pipeline

        try:
            return make_pipeline(json.dumps(self.as_dict(), sort_keys=True), tuple(size))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise UsageError(
                f"augmentation {self.name!r} cannot be made ({first_line(error)}); see the "
                f"arguments that torchvision.transforms.v2 takes"
            ) from error

    def augment(
        self, pixels: "torch.Tensor", digest: str, view: int, size: tuple[int, int]
    ) -> "torch.Tensor":
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
        from bottleneck.augment.pipelines import Seeded

        pipeline = self.pipeline(size)
        text = f"{digest} {view} {json.dumps(self.as_dict(), sort_keys=True)}"
        seed = hashlib.sha256(text.encode()).digest()
        view_of: Any = pixels
        with Seeded(int.from_bytes(seed[:8], "big") >> 1):
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


def _wrong_step(policy: str, name: str, error: Exception) -> UsageError:
    return UsageError(
        f"step {name} of augmentation {policy!r} failed ({first_line(error)}); see what "
        f"torchvision.transforms.v2 says of it"
    )


def _check_view(policy: str, found: Any, size: tuple[int, int]) -> None:
    import torch

    wanted = (3, *size)
    if isinstance(found, torch.Tensor) and found.dtype == torch.uint8 and found.shape == wanted:
        return
    is_tensor = isinstance(found, torch.Tensor)
    what = f"{found.dtype} {tuple(found.shape)}" if is_tensor else type(found).__name__
    raise UsageError(
        f"augmentation {policy!r} gives {what} where torch.uint8 {wanted} was expected; leave out "
        f"steps that change type or size, or end with CenterCrop"
    )
