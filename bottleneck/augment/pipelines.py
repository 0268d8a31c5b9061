"""The steps of a policy, torchvision's and our own, and their random number generator."""

import json
from collections.abc import Mapping
from functools import lru_cache
from inspect import signature
from math import ceil, cos, pi, sin
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torchvision.transforms import v2

__all__ = ["EdgeAffine", "EdgeElastic", "Seeded", "known_classes", "make_pipeline"]

_WIDEST = 3
"""Standard deviations at which a Gaussian kernel is truncated."""
_DRAWING: set[Any] = {
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


class _Warp(v2.Transform):  # type: ignore[misc]
    """Samples output pixels from other places of the image, with one bilinear interpolation.

    Outside the image its edge pixels are repeated, which no class of torchvision does.
    """

    def transform(self, inpt: Any, params: dict[str, Any]) -> torch.Tensor:
        """Sample the pixels at `places`, (height, width, 2), rows before columns, from the centre.

        Returns
        -------
        torch.Tensor
            uint8 of shape (3, height, width).
        """
        height, width = inpt.shape[-2:]
        grid = params["places"].flip(-1) * 2 / torch.tensor([width, height])
        found = functional.grid_sample(
            inpt[None].float(), grid[None], padding_mode="border", align_corners=False
        )
        return found[0].round_().clamp_(0, 255).to(torch.uint8)


class EdgeAffine(_Warp):
    """Rotate, shift, shear and zoom in one step.

    As Keras' ``ImageDataGenerator`` with ``fill_mode="nearest"``: the value of an output pixel is
    sampled at its coordinates multiplied by rotation x shift x shear x zoom.

    Parameters
    ----------
    degrees : float
        Angles are drawn from [-degrees, degrees].
    shift : float
        Shifts are drawn from [-shift, shift], as a fraction of the height and of the width.
    shear : float
        Shear angles are drawn from [-shear, shear], in radians.
    zoom : float
        Factors of the height and of the width are drawn independently from [1 - zoom, 1 + zoom].
    """

    def __init__(
        self, degrees: float = 0.0, shift: float = 0.0, shear: float = 0.0, zoom: float = 0.0
    ) -> None:
        super().__init__()
        if not 0 <= zoom < 1:
            raise ValueError(f"zoom must be at least 0 and below 1, got {zoom!r}")
        self.degrees, self.shift, self.shear, self.zoom = degrees, shift, shear, zoom

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the places in the image that the output pixels are sampled at.

        Parameters
        ----------
        flat_inputs : list
            Images, the first of which gives the size: shape (..., height, width).

        Returns
        -------
        dict
            ``places``: float tensor of shape (height, width, 2), rows and columns in pixels.
        """
        height, width = flat_inputs[0].shape[-2:]
        draws = (2 * torch.rand(6, dtype=torch.float64) - 1).tolist()
        turn, lean = draws[0] * self.degrees * pi / 180, draws[1] * self.shear
        down, right = draws[2] * self.shift * height, draws[3] * self.shift * width
        tall, wide = (1 + draw * self.zoom for draw in draws[4:])
        rotation = torch.tensor([[cos(turn), -sin(turn)], [sin(turn), cos(turn)]])
        shearing = torch.tensor([[1, -sin(lean)], [0, cos(lean)]])
        places = _places(height, width) / torch.tensor([tall, wide])
        return {"places": (places @ shearing.T + torch.tensor([down, right])) @ rotation.T}


class EdgeElastic(_Warp):
    """Shift every pixel a little, neighbours alike (Simard et al. 2003, Best Practices for
    Convolutional Neural Networks Applied to Visual Document Analysis, section 2).

    As ``ElasticTransform``, with parameters relative to the image size, and with noise smoothed
    along one axis after the other, which is many times faster.

    Parameters
    ----------
    shift : float
        Standard deviation of the shifts along each axis, as a fraction of the shorter side.
    smooth : float
        Standard deviation of the Gaussian that smooths them, as a fraction of the shorter side.
    """  # noqa: D205 - the source belongs to the first sentence

    def __init__(self, shift: float = 0.0, smooth: float = 0.05) -> None:
        super().__init__()
        if not smooth > 0:
            raise ValueError(f"smooth must be above 0, got {smooth!r}")
        self.shift, self.smooth = shift, smooth

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the places in the image that the output pixels are sampled at.

        Parameters
        ----------
        flat_inputs : list
            Images, the first of which gives the size: shape (..., height, width).

        Returns
        -------
        dict
            ``places``: float tensor of shape (height, width, 2), rows and columns in pixels.
        """
        height, width = flat_inputs[0].shape[-2:]
        side = min(height, width)
        reach = ceil(_WIDEST * self.smooth * side)
        bell = torch.exp(-((torch.arange(-reach, reach + 1) / (self.smooth * side)) ** 2) / 2)
        bell /= bell.square().sum().sqrt()  # keeps the deviation of what it smooths
        noise = torch.randn(2, 1, height + 2 * reach, width + 2 * reach)
        rows = functional.conv2d(noise, bell.reshape(1, 1, -1, 1))
        shifts = functional.conv2d(rows, bell.reshape(1, 1, 1, -1))[:, 0] * (self.shift * side)
        return {"places": _places(height, width) + shifts.movedim(0, -1)}


def _places(height: int, width: int) -> torch.Tensor:
    """Return each pixel's row and column relative to the centre: (height, width, 2)."""
    rows = torch.arange(height) - (height - 1) / 2
    columns = torch.arange(width) - (width - 1) / 2
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)


def known_classes() -> dict[str, type[v2.Transform]]:
    """Return the classes that policies may use, by name: torchvision's and our own.

    Returns
    -------
    dict of str to type
        Class name to subclass of ``torchvision.transforms.v2.Transform``.
    """
    theirs = {name: each for name, each in vars(v2).items() if isinstance(each, type)}
    ours = {"EdgeAffine": EdgeAffine, "EdgeElastic": EdgeElastic}
    return ours | {name: each for name, each in theirs.items() if issubclass(each, v2.Transform)}


class Seeded(TorchFunctionMode):
    """Makes random draws of this thread use a generator of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func in _DRAWING_LIKE:  # which take no generator in older versions of torch
            named = {"dtype": args[0].dtype} | named
            func, args = _DRAWING_LIKE[func], (args[0].shape,)
        if func in _DRAWING:
            named["generator"] = self._generator
        return func(*args, **named)


@lru_cache(maxsize=16)
def make_pipeline(text: str, size: tuple[int, int]) -> list[Any]:
    """Build the steps of a policy's `as_dict`, for a base with this input size.

    Parameters
    ----------
    text : str
        JSON of `Policy.as_dict`.
    size : (int, int)
        Height and width in pixels of the base's input.

    Returns
    -------
    list
        Transforms, to be applied one after the other.

    Raises
    ------
    KeyError, TypeError, ValueError
        The class does not exist, or does not accept its arguments.
    """
    return [_make(step, size) for step in json.loads(text)["steps"]]


def _make(step: Mapping[str, Any], size: tuple[int, int]) -> Any:
    ((name, arguments),) = step.items()
    kind = known_classes()[name]
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
