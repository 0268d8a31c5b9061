"""Augmentation policies: views of an image that depend on its digest and their number alone."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from math import cos, pi, sin
from pathlib import Path
from typing import Any, Self

import torch
import yaml
from torch.overrides import TorchFunctionMode
from torchvision.transforms import v2

from bottleneck.errors import PathMissingError, UnknownNameError, UsageError, did_you_mean

__all__ = ["POLICIES", "EdgeAffine", "Policy", "find_policy"]

_SCHEME = 1
"""Counts changes to how views are seeded and to what `EdgeAffine` does."""

Step = tuple[str, Mapping[str, Any]]

_FLIP: Step = ("RandomHorizontalFlip", {"p": 0.5})
_EDGE = 16
_STEPS: dict[str, tuple[Step, ...]] = {
    "none": (),
    "flip": (_FLIP,),
    "standard": (("EdgeAffine", {"degrees": 40, "shift": 0.2, "shear": 0.2, "zoom": 0.2}), _FLIP),
    "crop": (("RandomResizedCrop", {"scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3]}), _FLIP),
    "color": (
        ("ColorJitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}),
    ),
    "noise": (("GaussianNoise", {"sigma": 0.1}),),
    "elastic": (
        ("Pad", {"padding": _EDGE, "padding_mode": "edge"}),
        ("ElasticTransform", {"alpha": 150.0, "sigma": 5.0}),
        ("CenterCrop", {}),
    ),
    "trivial": (("TrivialAugmentWide", {}),),
}
POLICIES = tuple(_STEPS)

_FILE_TYPES = {".yaml", ".yml"}
_TRIAL_SIZE = (96, 80)
_TRIAL_WHOLE = (128, 112)

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
        One after the other: a class of ``torchvision.transforms.v2``, or `EdgeAffine`, and its
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
        text = json.dumps(self.as_dict(), sort_keys=True)
        pipeline = _pipeline(text, tuple(size))
        seed = hashlib.sha256(f"{digest} {view} {text}".encode()).digest()
        view_of: Any = pixels
        with _Seeded(int.from_bytes(seed[:8], "big") >> 1):
            for (name, _), step in zip(self.steps, pipeline, strict=True):
                try:
                    view_of = step(view_of)
                except Exception as error:
                    raise _wrong_step(self.name, name, error) from error
        _check_view(self.name, view_of, size)
        found: torch.Tensor = view_of.contiguous()
        return found


def find_policy(name: str) -> Policy:
    """Return a policy by its name, or read it from a YAML file, and try it on a small image.

    Parameters
    ----------
    name : str
        One of `POLICIES`, or the path of a ``.yaml`` or ``.yml`` file: a list of
        ``- ClassName: {argument: value}``.

    Raises
    ------
    UnknownNameError
        There is no such policy, or no such class.
    PathMissingError
        There is no such file.
    UsageError
        The file is not such a list, or a class cannot be used with these arguments.
    """
    path = Path(name)
    if path.suffix in _FILE_TYPES:
        policy = Policy(path.stem, _read_steps(path))
    elif name in _STEPS:
        policy = Policy(name, _STEPS[name])
    else:
        raise UnknownNameError(
            f"no augmentation {name!r}{did_you_mean(name, POLICIES)}; expected one of "
            f"{', '.join(POLICIES)}, or the path of a .yaml file"
        )
    _try(policy)
    return policy


class EdgeAffine(v2.Transform):  # type: ignore[misc]
    """Rotate, shift, shear and zoom in one bilinear interpolation; the outermost pixels go on.

    What Keras' ``ImageDataGenerator`` does with ``fill_mode="nearest"``, which no class of
    torchvision offers: output pixels are looked up in the image at
    rotation x shift x shear x zoom of their place, seen from the middle.

    Parameters
    ----------
    degrees : float
        Angles are drawn from [-degrees, degrees].
    shift : float
        Shifts are drawn from [-shift, shift] parts of the height, and of the width.
    shear : float
        Shear angles are drawn from [-shear, shear], in radians.
    zoom : float
        What heights and widths are multiplied by is drawn, for each alone, from
        [1 - zoom, 1 + zoom].
    """

    def __init__(
        self, degrees: float = 0.0, shift: float = 0.0, shear: float = 0.0, zoom: float = 0.0
    ) -> None:
        super().__init__()
        if not 0 <= zoom < 1:
            raise ValueError(f"zoom must be from 0 to below 1, not {zoom!r}")
        self.degrees, self.shift, self.shear, self.zoom = degrees, shift, shear, zoom

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw where the output's pixels lie in the image: (height, width, 2), x before y."""
        height, width = flat_inputs[0].shape[-2:]
        draws = (2 * torch.rand(6, dtype=torch.float64) - 1).tolist()
        turn, lean = draws[0] * self.degrees * pi / 180, draws[3] * self.shear
        down, right = draws[1] * self.shift * height, draws[2] * self.shift * width
        tall, wide = (1 + draw * self.zoom for draw in draws[4:])
        rotation = torch.tensor([[cos(turn), -sin(turn)], [sin(turn), cos(turn)]])
        shearing = torch.tensor([[1, -sin(lean)], [0, cos(lean)]])
        rows = (torch.arange(height) - (height - 1) / 2) / tall
        columns = (torch.arange(width) - (width - 1) / 2) / wide
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
        places = (places @ shearing.T + torch.tensor([down, right])) @ rotation.T
        return {"grid": places.flip(-1) * 2 / torch.tensor([width, height])}

    def transform(self, inpt: Any, params: dict[str, Any]) -> torch.Tensor:
        """Look the pixels up: uint8 of shape (3, height, width) again."""
        found = torch.nn.functional.grid_sample(
            inpt[None].float(), params["grid"][None], padding_mode="border", align_corners=False
        )
        return found[0].round_().clamp_(0, 255).to(torch.uint8)


_OWN = {"EdgeAffine": EdgeAffine}


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
            func, args, named = (
                _DRAWING_LIKE[func],
                (args[0].shape,),
                {"dtype": args[0].dtype} | named,
            )
        if func in _DRAWING:
            named["generator"] = self._generator
        return func(*args, **named)


@lru_cache(maxsize=16)
def _pipeline(text: str, size: tuple[int, int]) -> list[Any]:
    """Make the steps that a policy's `as_dict` names, for a base that takes this size."""
    return [_make(step, size) for step in json.loads(text)["steps"]]


def _make(step: Mapping[str, Any], size: tuple[int, int]) -> Any:
    ((name, arguments),) = step.items()
    kind = _OWN.get(name) or getattr(v2, name)
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


def _read_steps(path: Path) -> tuple[Step, ...]:
    try:
        found = yaml.safe_load(path.read_bytes())
        json.dumps(found, allow_nan=False)
    except FileNotFoundError:
        raise PathMissingError(
            f"no file {str(path)!r}; name an augmentation or the path of a .yaml file"
        ) from None
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise UsageError(
            f"{str(path)!r} is not a list of augmentation steps ({_first_line(error)}); write one "
            f"'- ClassName: {{argument: value}}' for each"
        ) from error
    return _checked_steps(path, found)


def _checked_steps(path: Path, found: Any) -> tuple[Step, ...]:
    """Return the steps that YAML holds if each names a class and its arguments."""
    if not isinstance(found, list) or not found:
        raise UsageError(
            f"{str(path)!r} holds {found!r:.60}, not a list of augmentation steps; write one "
            f"'- ClassName: {{argument: value}}' for each"
        )
    steps = []
    for each in found:
        step = {each: {}} if isinstance(each, str) else each
        if not isinstance(step, dict) or len(step) != 1:
            raise UsageError(
                f"{str(path)!r} has the step {each!r:.60}; expected '- ClassName: {{argument: "
                f"value}}'"
            )
        ((name, arguments),) = step.items()
        steps.append((str(name), _checked_arguments(path, str(name), arguments or {})))
    return tuple(steps)


def _checked_arguments(path: Path, name: str, arguments: Any) -> dict[str, Any]:
    known = [*_OWN, *(each for each in dir(v2) if _is_transform(getattr(v2, each)))]
    if name not in known:
        raise UnknownNameError(
            f"{str(path)!r} names {name!r}{did_you_mean(name, known)}; expected a class of "
            f"torchvision.transforms.v2"
        )
    if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
        raise UsageError(
            f"{str(path)!r} gives {name} {arguments!r:.60}; expected its arguments by name, as "
            f"{{argument: value}}"
        )
    if "size" in arguments:
        raise UsageError(
            f"{str(path)!r} gives {name} a size; leave it out, for views have the size that the "
            f"base takes"
        )
    if "transforms" in arguments:
        inner = _checked_steps(path, arguments["transforms"])
        return arguments | {"transforms": [{key: given} for key, given in inner]}
    return arguments


def _is_transform(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, v2.Transform)


def _try(policy: Policy) -> None:
    """Make two small views, and the first again: it must come out the same."""
    high, wide = _TRIAL_WHOLE if policy.whole else _TRIAL_SIZE
    pixels = (torch.arange(3 * high * wide) * 7 % 256).to(torch.uint8).reshape(3, high, wide)
    try:
        _pipeline(json.dumps(policy.as_dict(), sort_keys=True), _TRIAL_SIZE)
    except Exception as error:
        raise UsageError(
            f"augmentation {policy.name!r} cannot be made ({_first_line(error)}); see the "
            f"arguments that torchvision.transforms.v2 takes"
        ) from error
    views = [policy.augment(pixels, "", view, _TRIAL_SIZE) for view in (1, 2, 1)]
    if not torch.equal(views[0], views[2]):
        raise UsageError(
            f"augmentation {policy.name!r} gives another view each time; use steps that draw from "
            f"torch's generator"
        )


def _wrong_step(policy: str, name: str, error: Exception) -> UsageError:
    return UsageError(
        f"step {name} of augmentation {policy!r} failed ({_first_line(error)}); see what "
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


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
