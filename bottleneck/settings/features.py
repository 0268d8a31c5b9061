"""The settings of features: how they are computed and stored, and which of them are taken."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal

from annotated_doc import Doc

from bottleneck.errors import UsageError
from bottleneck.fields import Option, settings
from bottleneck.settings.values import (
    Augmentation,
    BatchSize,
    Compression,
    Device,
    Dtype,
    Interpolation,
    Name,
    NewSet,
    Pixels,
    PolicyName,
    Pool,
    Seed,
    ViewCount,
    check_views,
)

__all__ = [
    "BaseSettings",
    "ExportSettings",
    "ExtractSettings",
    "FeatureSettings",
    "ImageSettings",
    "ImportSettings",
    "LayerSettings",
    "StoreSettings",
    "SweepFeatures",
]


_ByModel = Annotated[str | None, Doc("Choose among extractions by model.")]
_BySet = Annotated[str | None, Doc("Choose among extractions by image set."), Option("--set")]


@settings("Images")
class ImageSettings:
    """Which images."""

    data: Annotated[
        Path,
        Doc(
            "Folder DATA/CLASS/IMAGE or DATA/{train,val,test}/CLASS/IMAGE, or a CSV table with the "
            "columns path,label[,split][,weight]."
        ),
    ] = Path("data")
    image_set: NewSet = None
    seed: Seed = 0


@settings("Base")
class BaseSettings:
    """Which network is run, cut at which layers, and how it sees images."""

    model: Annotated[str, Doc("The base; 'bottleneck models' lists them.")]
    layers: Annotated[
        tuple[str, ...],
        Doc("A layer, alias or pattern, or all-blocks; may repeat. The default layer otherwise."),
    ] = ()
    weights: Annotated[
        str, Doc("default, a name, a .pth or .safetensors file, or random[:SEED] for testing only.")
    ] = "default"
    image_size: Annotated[
        Pixels | None, Doc("What the base sees: SIDE or HEIGHTxWIDTH; as the weights by default.")
    ] = None
    interpolation: Annotated[Interpolation | None, Doc("As the weights have it by default.")] = None
    squash: Annotated[
        bool | None,
        Doc("Squash the whole image or crop its centre; as the weights have it by default."),
        Option("--squash/--crop"),
    ] = None
    keep_aspect: Annotated[
        bool, Doc("Crop nothing: the base sees whole images of any proportions; needs `pool`.")
    ] = False
    reduced_decode: Annotated[
        bool, Doc("Decode large JPEGs at a fraction of their size: faster, slightly different.")
    ] = False
    exact_resize: Annotated[
        bool | None,
        Doc("Resize exactly as Pillow does; by default where `precision` is given as fp32."),
        Option(hidden=True),
    ] = None
    pool: Annotated[Pool, Doc("How maps and tokens are pooled; fit-head can do it, too.")] = "none"
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Doc("fp32 is exact; auto takes bf16 where it is native and the network tolerates it."),
    ] = "auto"
    device: Device = "auto"

    def agrees_with(self, other: "BaseSettings") -> bool:
        """Tell whether both are of the same base.

        Parameters
        ----------
        other : BaseSettings
            May have other fields as well, which are not compared.

        Returns
        -------
        bool
        """
        names = [each.name for each in fields(BaseSettings)]
        return all(getattr(self, name) == getattr(other, name) for name in names)


@settings("Stored features", kw_only=True)
class StoreSettings:
    """What is computed of each image, and how it is stored."""

    views: Annotated[ViewCount, Doc("Augmented views to add for each training image.")] = 0
    augment: Annotated[
        Augmentation | None,
        Doc("Augmentation of the views, or a YAML file; see 'bottleneck augment-preview'."),
    ] = None
    dtype: Annotated[Dtype, Doc("The type in which features are stored.")] = "float16"
    compress: Annotated[
        Compression, Doc("How new parts are compressed, without loss: smaller, and slower to read.")
    ] = "none"
    batch_size: BatchSize = "auto"

    def __post_init__(self) -> None:
        check_views(self.views, self.augment)


@settings("Extraction")
class ExtractSettings(BaseSettings, StoreSettings):
    """How features are computed and stored."""


@settings("Features")
class ExportSettings:
    """Which features in the cache: one layer of the last extraction that matches."""

    model: _ByModel = None
    layer: Annotated[str | None, Doc("Choose among extractions by layer or alias.")] = None
    image_set: _BySet = None
    pool: Annotated[
        Pool | None, Doc("Pool stored maps and tokens, or choose among extractions by pooling.")
    ] = None


@settings("Features")
class LayerSettings:
    """Which features in the cache: several layers, each pooled in several ways."""

    layers: Annotated[
        tuple[str, ...], Doc("A layer or alias; may repeat. By default all of the last extraction.")
    ] = ()
    pools: Annotated[
        tuple[Pool, ...], Doc("Pool stored maps and tokens; may repeat. As stored by default.")
    ] = ()
    model: _ByModel = None
    image_set: _BySet = None


@settings("Features", kw_only=True)
class ViewSettings:
    """Which augmented views of the training images are fitted on."""

    views: Annotated[
        ViewCount | None,
        Doc("Augmented views to fit on; those of the extraction by default, 0 for none."),
    ] = None
    augment: Annotated[
        PolicyName | None, Doc("Choose among extractions by the policy of their views.")
    ] = None

    def __post_init__(self) -> None:
        if self.augment is not None and self.views == 0:
            raise UsageError(f"`augment` {self.augment!r} needs `views` of at least 1, got 0")


@settings("Features")
class FeatureSettings(ExportSettings, ViewSettings):
    """Which features in the cache, and which views of them."""


@settings("Features")
class SweepFeatures(LayerSettings, ViewSettings):
    """Which features in the cache a sweep goes through."""


@settings("Array")
class ImportSettings:
    """What an imported array is."""

    model: Annotated[Name | None, Doc("A name for what computed the array.")] = None
    layer: Annotated[Name, Doc("A name for the layer.")] = "features"
    axes: Annotated[
        Literal["CHW", "HWC", "TC"] | None, Doc("Of maps or tokens, so that they can be pooled.")
    ] = None
    by_row: Annotated[bool, Doc("Let rows stand for themselves, without their images.")] = False
    image_set: NewSet = None
    seed: Seed = 0
