"""The deterministic preprocessing that belongs to a set of weights."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F  # noqa: N812 - the field's name for it

from bottleneck.errors import BadImageError, UnknownNameError, UsageError, did_you_mean

__all__ = ["INTERPOLATIONS", "Transform"]

_LONGEST_SIDE = 16_384
_MOST_PIXELS = 2**26
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


@dataclass(frozen=True)
class Transform:
    """Resize, crop the centre, scale to [0, 1], normalise: image in, tensor out.

    Attributes
    ----------
    resize : (int, int)
        Height and width in pixels of the box that the resized image covers, or fills.
    crop : (int, int)
        Height and width in pixels of the centre crop, which is what the base sees.
    squash : bool
        Fill the box whatever becomes of the image's proportions. Otherwise they are kept, and the
        image covers the box: for a square one, its shorter side becomes the box's side.
    interpolation : str
        One of `INTERPOLATIONS`.
    mean, std : tuple of float
        Per channel, on the scale [0, 1].
    """

    resize: tuple[int, int]
    crop: tuple[int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    squash: bool = False

    @classmethod
    def from_torchvision(cls, preset: Any) -> Self:
        """Take over the preset that a torchvision weights entry carries."""
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
        """Take over a data configuration as `timm.data.resolve_data_config` gives it."""
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

    def adjusted(
        self,
        *,
        image_size: tuple[int, int] | None = None,
        interpolation: str | None = None,
        squash: bool | None = None,
    ) -> Self:
        """Return the transform with some settings of one's own.

        Parameters
        ----------
        image_size : (int, int), optional
            Height and width in pixels of what the base sees. The share of the image that the
            centre crop keeps stays as it was.
        interpolation : str, optional
            One of `INTERPOLATIONS`.
        squash : bool, optional
            True resizes the whole image to the size that the base sees, whatever its proportions;
            False keeps them and crops the centre.

        Raises
        ------
        UsageError
            A size below 1.
        UnknownNameError
            There is no such interpolation.
        """
        changed = self
        if image_size is not None:
            if min(image_size) < 1 or max(image_size) > _LONGEST_SIDE:
                raise UsageError(
                    f"images of {image_size[0]} x {image_size[1]} pixels cannot be; give sides "
                    f"from 1 to {_LONGEST_SIDE}"
                )
            scaled = [
                round(box * new / old)
                for box, new, old in zip(self.resize, image_size, self.crop, strict=True)
            ]
            changed = replace(changed, resize=(scaled[0], scaled[1]), crop=image_size)
        if interpolation is not None:
            if interpolation not in INTERPOLATIONS:
                raise UnknownNameError(
                    f"no interpolation {interpolation!r}"
                    f"{did_you_mean(interpolation, INTERPOLATIONS)}; expected one of "
                    f"{', '.join(INTERPOLATIONS)}"
                )
            changed = replace(changed, interpolation=interpolation)
        if squash is not None:
            resize = changed.crop if squash else changed.resize
            changed = replace(changed, resize=resize, squash=squash)
        return changed

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Preprocess one RGB image.

        Returns
        -------
        torch.Tensor
            float32 of shape (3, height, width), the size of `crop`.

        Raises
        ------
        BadImageError
            The image is so thin that it would be resized to more than 2^26 pixels.
        """
        size = self.resize if self.squash else self._covering(image.height, image.width)
        if size[0] * size[1] > max(_MOST_PIXELS, self.resize[0] * self.resize[1]):
            raise BadImageError(
                f"{image.width} x {image.height} pixels are too thin for a centre crop: they would "
                f"be resized to {size[1]} x {size[0]}; --squash takes them"
            )
        resized = F.resize(image, list(size), interpolation=InterpolationMode(self.interpolation))
        cropped = F.center_crop(resized, list(self.crop))
        scaled = F.convert_image_dtype(F.pil_to_tensor(cropped), torch.float32)
        normalised: torch.Tensor = F.normalize(scaled, list(self.mean), list(self.std))
        return normalised

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON holds them (tuples become lists)."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    def _covering(self, height: int, width: int) -> tuple[int, int]:
        """Return the size at which an image just covers the box, rounded as torchvision rounds."""
        box_height, box_width = self.resize
        if height * box_width >= width * box_height:  # the image is the taller one
            return int(box_width * height / width), box_width
        return box_height, int(box_height * width / height)
