"""What a model is: an architecture, its weights and the preprocessing that belongs to them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np
from PIL import Image

from bottleneck.errors import BadImageError, UsageError
from bottleneck.records import Adjustments, TransformFacts

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Model", "PretrainedWeights", "StateDict", "Transform"]

StateDict = dict[str, "torch.Tensor"]

_MOST_PIXELS = 2**26
_MOST_ASPECT = 16
_REDUCING_GAP = 2
"""Pillow's own for thumbnails: what is left to the resize, so that it looks the same."""


@dataclass(frozen=True)
class Transform(TransformFacts):
    """Resize, crop the centre, scale to [0, 1], normalise: image in, tensor out."""

    @classmethod
    def from_torchvision(cls, preset: Any) -> Self:
        """Take over the preset that a torchvision weights entry carries.

        Parameters
        ----------
        preset : Any
            torchvision's ``ImageClassification``.

        Returns
        -------
        Transform
        """
        (resize,), (crop,) = preset.resize_size, preset.crop_size
        return cls(
            resize=(resize, resize),
            crop=(crop, crop),
            interpolation=preset.interpolation.value,
            mean=tuple(preset.mean),
            std=tuple(preset.std),
        )

    @classmethod
    def from_timm(cls, config: Mapping[str, Any]) -> Self:
        """Take over a data configuration as `timm.data.resolve_data_config` gives it.

        Parameters
        ----------
        config : mapping of str to Any
            ``input_size``, ``crop_pct``, ``crop_mode`` and the like.

        Returns
        -------
        Transform
        """
        _, height, width = config["input_size"]
        share = config["crop_pct"]
        return cls(
            resize=(math.floor(height / share), math.floor(width / share)),
            crop=(height, width),
            interpolation=config["interpolation"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            squash=config["crop_mode"] == "squash",
        )

    def adjusted(self, **changes: Unpack[Adjustments]) -> Self:
        """Return the transform with some settings of one's own.

        Parameters
        ----------
        image_size : (int, int), optional
            Height and width in pixels of what the base sees. The share of the image that the
            centre crop keeps stays as it was.
        interpolation : str, optional
            As Pillow names it.
        squash : bool, optional
            True resizes the whole image to the size that the base sees, whatever its proportions;
            False keeps them and crops the centre.
        keep_aspect : bool
            Keep the proportions and crop nothing: images of different sizes.
        reduced_decode : bool
            Decode large JPEGs at a fraction of their size.
        exact_resize : bool
            Resize as Pillow does, bit for bit.

        Returns
        -------
        Transform

        Raises
        ------
        UsageError
            `squash` with `keep_aspect`.
        """
        given: dict[str, Any] = {"reduced_decode": False, "exact_resize": True, **changes}
        crop: tuple[int, int] = given.pop("image_size", self.crop)
        height, width = (
            round(box * new / old)
            for box, new, old in zip(self.resize, crop, self.crop, strict=True)
        )
        changed = replace(self, resize=(height, width), crop=crop, **given)
        if changed.keep_aspect and changed.squash:
            raise UsageError(
                "images cannot keep their proportions and be squashed; give `keep_aspect` or "
                "`squash`, and `squash=False` with `keep_aspect` where the weights squash"
            )
        if changed.keep_aspect or given.get("squash"):
            changed = replace(changed, resize=crop)
        return changed

    def __call__(self, image: Image.Image | np.ndarray) -> "torch.Tensor":
        """Preprocess one RGB image.

        Parameters
        ----------
        image : PIL.Image.Image or np.ndarray
            uint8 of shape (height, width, 3).

        Returns
        -------
        torch.Tensor
            float32 of shape (3, height, width), the size of `crop`.

        Raises
        ------
        BadImageError
            The image is too thin for `size_of`.
        """
        return self.normalise(self.pixels(image))

    def pixels(
        self, image: Image.Image | np.ndarray, *, size: tuple[int, int] | None = None
    ) -> "torch.Tensor":
        """Resize and crop one RGB image, as `__call__` does before it scales.

        Parameters
        ----------
        image : PIL.Image.Image or np.ndarray
            uint8 of shape (height, width, 3).
        size : (int, int), optional
            Height and width to resize to: `size_of` the whole image, where this is a reduced one.

        Returns
        -------
        torch.Tensor
            uint8 of shape (3, height, width).
        """
        import torch
        from torchvision.transforms.functional import center_crop

        given = np.asarray(image)
        height, width = given.shape[:2]
        size = size or self.size_of(height, width)
        if self.exact_resize or not self._has_kernel(height, width, size):
            kernel = Image.Resampling[self.interpolation.upper()]
            filtered = Image.fromarray(given).resize(size[::-1], kernel)
            resized = torch.from_numpy(np.array(filtered)).movedim(-1, 0)
        else:
            tensor = torch.from_numpy(np.require(given, requirements=["C", "W"])).movedim(-1, 0)
            resized = torch.nn.functional.interpolate(
                tensor[None], size, mode=self.interpolation, antialias=True
            )[0]
        whole = self.keep_aspect
        cropped: torch.Tensor = resized if whole else center_crop(resized, list(self.crop))
        return cropped

    def normalise(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Scale pixels as the weights expect them.

        Parameters
        ----------
        pixels : torch.Tensor
            uint8 of shape (..., 3, height, width), on any device.

        Returns
        -------
        torch.Tensor
            float32 of the same shape: (pixels / 255 - mean) / std.
        """
        import torch

        mean, std = (
            torch.tensor(values, device=pixels.device)[:, None, None]
            for values in (self.mean, self.std)
        )
        return pixels.float().div_(255).sub_(mean).div_(std)

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that an image is resized to.

        Parameters
        ----------
        height, width : int
            Of the image, in pixels.

        Returns
        -------
        (int, int)
            Height and width in pixels.

        Raises
        ------
        BadImageError
            It is so thin that these would be more than 2^26 pixels, or, uncropped, sixteen times
            the box.
        """
        size = self.resize if self.squash else self._covering(height, width)
        box = self.resize[0] * self.resize[1]
        if size[0] * size[1] > (_MOST_ASPECT * box if self.keep_aspect else max(_MOST_PIXELS, box)):
            raise BadImageError(
                f"{width} x {height} pixels are too thin to keep their proportions: they would be "
                f"resized to {size[1]} x {size[0]}; `squash` in place of "
                f"{'`keep_aspect`' if self.keep_aspect else '`squash=False`'} takes them"
            )
        return size

    def proportions(self, height: int, width: int) -> tuple[int, int]:
        """Return `size_of`, and 0, 0 for an image that it refuses.

        Parameters
        ----------
        height, width : int
            Of the image, in pixels.

        Returns
        -------
        (int, int)
        """
        try:
            return self.size_of(height, width)
        except (BadImageError, ZeroDivisionError):
            return 0, 0

    def enough(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width at which an image's pixels suffice.

        Parameters
        ----------
        height, width : int
            Of the image, in pixels.

        Returns
        -------
        (int, int)

        Raises
        ------
        BadImageError
            See `size_of`.
        """
        if not self.reduced_decode:
            return height, width
        needed = self.size_of(height, width)
        return _REDUCING_GAP * needed[0], _REDUCING_GAP * needed[1]

    def _has_kernel(self, height: int, width: int, size: tuple[int, int]) -> bool:
        """Whether the kernels are as good as Pillow: some overshoot where a side grows."""
        shrinks = size[0] <= height and size[1] <= width and size != (height, width)
        return shrinks and self.interpolation in {"bilinear", "bicubic"}

    def _covering(self, height: int, width: int) -> tuple[int, int]:
        """Return the size at which an image just covers the box, rounded as torchvision rounds."""
        box_height, box_width = self.resize
        if height * box_width >= width * box_height:  # the image is the taller one
            return int(box_width * height / width), box_width
        return box_height, int(box_height * width / height)


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights that a library offers for a model.

    Attributes
    ----------
    load : callable
        Returns the state dict; raises `OSError` where it can be had neither locally nor from the
        network.
    transform : Transform
        The preprocessing that belongs to these weights.
    place : str
        Where a local copy is looked for.
    file : str
        The name under which the library publishes them, if it is one file.
    top1 : float, optional
        Accuracy on ImageNet in percent, as the source of the weights publishes it.
    """

    load: Callable[[], StateDict]
    transform: Transform
    place: str
    file: str = ""
    top1: float | None = None


@dataclass(frozen=True)
class Model:
    """A model by its name. Models of one name and architecture are equal.

    Another package adds a model by an entry point in the group ``bottleneck.bases``. The entry
    point's name is the model's, its object a callable without arguments that returns the `Model`::

        [project.entry-points."bottleneck.bases"]
        my_net = "my_package.bases:my_net"

    Attributes
    ----------
    name : str
        What the user types.
    architecture : str
        Source library and its name for the architecture, such as ``torchvision:vgg16``; part of the
        fingerprint.
    build : callable
        Takes the height and width in pixels of the images that the weights were trained on, which
        most networks ignore. Returns the network with weights of any value.
    transform : Transform
        The preprocessing for weights that are not among `weights`.
    weights : mapping of str to PretrainedWeights
        By the library's name for them; the first one is the default. There may be none.
    default_layer : str
        A layer's name or alias: what is extracted where none is asked for.
    parameters : int, optional
        How many there are, for the table of models.
    """

    name: str
    architecture: str
    build: Callable[[tuple[int, int]], "nn.Module"] = field(compare=False)
    transform: Transform = field(compare=False)
    weights: Mapping[str, PretrainedWeights] = field(default_factory=dict, compare=False)
    default_layer: str = "penultimate"
    parameters: int | None = None

    @property
    def library(self) -> str:
        """The source library."""
        return self.architecture.partition(":")[0]
