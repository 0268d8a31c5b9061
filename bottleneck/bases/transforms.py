"""The deterministic preprocessing that belongs to a set of weights."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F  # noqa: N812 - the field's name for it

__all__ = ["Transform"]


@dataclass(frozen=True)
class Transform:
    """Resize, crop the centre, scale to [0, 1], normalise: image in, tensor out.

    Attributes
    ----------
    resize : int or (int, int)
        Length of the shorter side in pixels, or height and width to squash to.
    crop : (int, int)
        Height and width of the centre crop, in pixels.
    interpolation : str
        ``"nearest"``, ``"bilinear"``, ``"bicubic"``, ...: a `torchvision` interpolation mode.
    mean, std : tuple of float
        Per channel, on the scale [0, 1].
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_torchvision(cls, preset: Any) -> Self:
        """Take over the preset that a torchvision weights entry carries."""
        (resize,), (crop,) = preset.resize_size, preset.crop_size
        return cls(
            resize=resize,
            crop=(crop, crop),
            interpolation=preset.interpolation.value,
            mean=tuple(preset.mean),
            std=tuple(preset.std),
        )

    @classmethod
    def from_timm(cls, config: Mapping[str, Any]) -> Self:
        """Take over a data configuration as `timm.data.resolve_data_config` gives it."""
        _, height, width = config["input_size"]
        scaled = tuple(math.floor(side / config["crop_pct"]) for side in (height, width))
        return cls(
            resize=scaled if config["crop_mode"] == "squash" else min(scaled),
            crop=(height, width),
            interpolation=config["interpolation"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Preprocess one RGB image.

        Returns
        -------
        torch.Tensor
            float32 of shape (3, height, width), the size of `crop`.
        """
        size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
        resized = F.resize(image, size, interpolation=InterpolationMode(self.interpolation))
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
