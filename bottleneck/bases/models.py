"""A model: an architecture, its weights and its preprocessing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np
from PIL import Image

from bottleneck.errors import BadImageError, UsageError
from bottleneck.records import Adjustments, TransformFacts, as_dict

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Model", "PretrainedWeights", "StateDict", "Transform"]

StateDict = dict[str, "torch.Tensor"]

_MOST_PIXELS = 2**26
_MOST_ASPECT = 16
_REDUCING_GAP = 2
"""Pillow's own value for thumbnails: larger images are reduced first, with the same look."""


@dataclass(frozen=True)
class Transform(TransformFacts):
    """Resize, crop the centre, scale to [0, 1] and normalise an image to a tensor.

    Attributes
    ----------
    max_pixels : int or None
        Pixels of the largest image that is decoded, if not the usual limit; not a part of
        fingerprints, as it changes no pixel.
    """

    max_pixels: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what affects pixels, in JSON types."""
        return as_dict(self, TransformFacts)

    @property
    def summary(self) -> str:
        """The preprocessing in words."""
        height, width = self.resize
        if self.squash:
            resized = f"squash to {height} x {width}"
        elif height == width:
            resized = f"resize the shorter side to {height}"
        else:
            resized = f"resize to cover {height} x {width}"
        cropped = (
            ""
            if self.squash and self.crop == self.resize
            else (
                ", keep the proportions"
                + (f", to multiples of {self.multiple}" * bool(self.multiple))
                if self.keep_aspect
                else f", crop {self.crop[0]} x {self.crop[1]}"
            )
        )
        mean, std = (" ".join(f"{each:.4g}" for each in values) for values in (self.mean, self.std))
        return f"{resized} pixels ({self.interpolation}){cropped}; mean {mean}; std {std}"

    def adjusted(self, **changes: Unpack[Adjustments]) -> Self:
        """Return the transform with changed settings.

        Parameters
        ----------
        image_size : (int, int), optional
            Height and width of the base's input in pixels. The fraction of the image that the
            centre crop keeps is unchanged.
        interpolation : str, optional
            Pillow's name of the interpolation.
        squash : bool, optional
            True resizes the whole image to the input size, whatever its proportions; False keeps
            the proportions and crops the centre.
        keep_aspect : bool
            Keep the proportions without cropping, which gives images of different sizes.
        reduced_decode : bool
            Decode large JPEGs at a fraction of their size.
        exact_resize : bool
            Resize as Pillow does, bit for bit.
        max_value : int, optional
            The value of white in pixels of more than 8 bits.
        max_pixels : int, optional
            Pixels of the largest image that is decoded.

        Returns
        -------
        Transform

        Raises
        ------
        UsageError
            `squash` and `keep_aspect` are both set.
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
                "images cannot be squashed and keep their proportions; give either `squash` or "
                "`keep_aspect`; if the weights squash by default, give `keep_aspect` with "
                "`squash=False`"
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
            The image is too thin, see `size_of`.
        """
        return self.normalise(self.pixels(image))

    def pixels(
        self, image: Image.Image | np.ndarray, *, size: tuple[int, int] | None = None
    ) -> "torch.Tensor":
        """Resize and crop one RGB image, the first step of `__call__`.

        Parameters
        ----------
        image : PIL.Image.Image or np.ndarray
            uint8 of shape (height, width, 3).
        size : (int, int), optional
            Height and width to resize to; for a reduced image, `size_of` the full-size image.

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
        # The fast kernels are as good as Pillow; but some overshoot if a side is enlarged.
        shrinks = size[0] <= height and size[1] <= width and size != (height, width)
        if self.exact_resize or not shrinks or self.interpolation not in {"bilinear", "bicubic"}:
            kernel = Image.Resampling[self.interpolation.upper()]
            filtered = Image.fromarray(given).resize(size[::-1], kernel)
            resized = torch.from_numpy(np.array(filtered)).movedim(-1, 0)
        else:
            tensor = torch.from_numpy(np.require(given, requirements=["C", "W"])).movedim(-1, 0)
            resized = torch.nn.functional.interpolate(
                tensor[None], size, mode=self.interpolation, antialias=True
            )[0]
        if self.keep_aspect:
            return resized
        cropped: torch.Tensor = center_crop(resized, list(self.crop))
        return cropped

    def normalise(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Scale and normalise pixels.

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
            Size of the image in pixels.

        Returns
        -------
        (int, int)
            Height and width in pixels.

        Raises
        ------
        BadImageError
            The image is so thin that the result would exceed 2^26 pixels or, without cropping,
            sixteen times the box.
        """
        size = self.resize if self.squash else self._covering(height, width)
        if step := self.multiple:
            height, width = (max(step, (side + step // 2) // step * step) for side in size)
            size = height, width
        box = self.resize[0] * self.resize[1]
        if size[0] * size[1] > (_MOST_ASPECT * box if self.keep_aspect else max(_MOST_PIXELS, box)):
            raise BadImageError(
                f"an image of {width} x {height} pixels is too thin to keep its proportions: it "
                f"would be resized to {size[1]} x {size[0]}; use `squash` in place of "
                f"{'`keep_aspect`' if self.keep_aspect else '`squash=False`'}"
            )
        return size

    def proportions(self, height: int, width: int) -> tuple[int, int]:
        """Return `size_of`, or 0, 0 for images that it rejects.

        Parameters
        ----------
        height, width : int
            Size of the image in pixels.

        Returns
        -------
        (int, int)
        """
        try:
            return self.size_of(height, width)
        except (BadImageError, ZeroDivisionError):
            return 0, 0

    def enough(self, height: int, width: int) -> tuple[int, int]:
        """Return the minimum height and width at which an image can be decoded.

        Parameters
        ----------
        height, width : int
            Size of the image in pixels.

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

    def _covering(self, height: int, width: int) -> tuple[int, int]:
        """Return the size at which an image just covers the box, with torchvision's rounding."""
        box_height, box_width = self.resize
        if height * box_width >= width * box_height:  # the image is the taller one
            return int(box_width * height / width), box_width
        return box_height, int(box_height * width / height)


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights of a model: what a library offers, a file, or a seed.

    Attributes
    ----------
    load : callable
        Returns the state dict; raises `OSError` if the weights are neither stored locally nor can
        be downloaded.
    transform : Transform
        The preprocessing that belongs to these weights.
    place : str
        Location of a library's local copy.
    file : str
        File name under which the library publishes the weights, if it is one file.
    top1 : float, optional
        Published ImageNet accuracy in percent.
    """

    load: Callable[[], StateDict]
    transform: Transform
    place: str = ""
    file: str = ""
    top1: float | None = None


@dataclass(frozen=True)
class Model:
    """A model and its name. Models with equal name and architecture are equal.

    Another package can add a model with an entry point in the group ``bottleneck.bases``. The name
    of the entry point is the model's name, and its object is a callable without arguments that
    returns the `Model`::

        [project.entry-points."bottleneck.bases"]
        my_net = "my_package.bases:my_net"

    Attributes
    ----------
    name : str
        Name that users give.
    architecture : str
        Source library and its name for the architecture, such as ``torchvision:vgg16``; part of the
        fingerprint.
    build : callable
        Takes the height and width in pixels of the images that the weights were trained on, which
        most networks ignore. Returns the network with arbitrary weights.
    transform : Transform
        The preprocessing for weights that are not in `weights`.
    weights : mapping of str to PretrainedWeights
        Weights by the library's name for them; the first is the default. May be empty.
    default_layer : str
        Name or alias of the layer that is extracted by default.
    parameters : int, optional
        Number of parameters, for the table of models.
    convert : callable, optional
        Takes a state dict whose tensors do not all have the network's names, as its authors have
        published it, and returns one in which more do. It may raise anything.
    """

    name: str
    architecture: str
    build: Callable[[tuple[int, int]], "nn.Module"] = field(compare=False)
    transform: Transform = field(compare=False)
    weights: Mapping[str, PretrainedWeights] = field(default_factory=dict, compare=False)
    default_layer: str = "penultimate"
    parameters: int | None = None
    convert: Callable[[StateDict], StateDict] | None = field(default=None, compare=False)

    @property
    def library(self) -> str:
        """The source library."""
        return self.architecture.partition(":")[0]
