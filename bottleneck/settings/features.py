"""Settings of features: how to compute, store and select them."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal

from annotated_doc import Doc

from bottleneck.errors import UsageError
from bottleneck.fields import Option, given_in, settings
from bottleneck.settings import values

__all__ = [
    "BaseOptions",
    "BaseSettings",
    "BasesSettings",
    "ExtractSettings",
    "FeatureSettings",
    "FitFeatures",
    "ImageSettings",
    "ImportSettings",
    "LayerSettings",
    "ReadSettings",
    "SelectSettings",
    "SimilarFeatures",
    "StoreSettings",
    "SweepFeatures",
]


_WEIGHT_FILES = {".pth", ".pt", ".bin", ".safetensors"}
_ByModel = Annotated[str | None, Doc("Select the extraction by model.")]
_OF_AN_ARRAY = Option(needs=("file=*.npy",))
_BySet = Annotated[str | None, Doc("Select the extraction by image set."), Option("--set")]


@settings("Images", kw_only=True)
class ReadSettings:
    """How an image set is read."""

    image_set: values.NewSet = None
    seed: values.Seed = 0
    max_bytes: values.MaxBytes = None
    min_images: values.MinImages = 1
    nested: values.Nested = False
    group_by: values.GroupBy = None


@settings("Images", kw_only=True)
class ImageSettings(ReadSettings):
    """The images."""

    data: values.DataPath = Path("data")


@settings("Base", kw_only=True)
class BaseOptions:
    """The layers and the preprocessing of a network."""

    layers: Annotated[
        tuple[str, ...],
        Doc("Layer, alias, pattern or all-blocks; may repeat. By default the model's default one."),
    ] = ()
    weights: Annotated[
        str, Doc("default, a name, a .pth or .safetensors file, or random[:SEED] for testing only.")
    ] = "default"
    image_size: Annotated[
        values.Pixels | None,
        Doc("Input size of the base: SIDE or HEIGHTxWIDTH; by default that of the weights."),
    ] = None
    interpolation: Annotated[
        values.Interpolation | None,
        Doc("Interpolation of the resize; by default that of the weights."),
    ] = None
    squash: Annotated[
        bool | None,
        Doc(
            "Squash the whole image to the input size instead of cropping its centre; by default "
            "as the weights do."
        ),
        Option("--squash/--crop"),
    ] = None
    keep_aspect: Annotated[
        bool, Doc("Do not crop: the base sees whole images of any proportions; needs `pool`.")
    ] = False
    reduced_decode: Annotated[
        bool, Doc("Decode large JPEGs at a fraction of their size: faster, slightly different.")
    ] = False
    max_value: Annotated[
        values.Count | None,
        Doc("White in pixels of over 8 bits, such as 4095; by default as files state, or 65535."),
    ] = None
    max_pixels: values.MaxPixels = None
    exact_resize: Annotated[
        bool | None,
        Doc("Resize exactly as Pillow does; by default only where `precision` is given as fp32."),
        Option(hidden=True),
    ] = None
    pool: Annotated[values.Pool, Doc("Pooling of maps and tokens; fit-head pools, too.")] = "none"
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Doc("fp32 is exact; auto uses bf16 where it is native and the network tolerates it."),
    ] = "auto"
    device: values.Device = "auto"


@settings("Base")
class BaseSettings(BaseOptions):
    """The network, its layers and its preprocessing."""

    model: values.BaseName

    def agrees_with(self, other: "BaseSettings") -> bool:
        """Return whether both describe the same base.

        Parameters
        ----------
        other : BaseSettings
            Settings that may have further fields, which are not compared.

        Returns
        -------
        bool
        """
        names = [each.name for each in fields(BaseSettings)]
        return all(getattr(self, name) == getattr(other, name) for name in names)


@settings("Stored features", kw_only=True)
class StoreSettings:
    """Augmentation and storage of features."""

    views: Annotated[values.ViewCount, Doc("Augmented views to add for each training image.")] = 0
    augment: Annotated[
        values.Augmentation | None,
        Doc("Augmentation policy, or a YAML file of one; see 'bottleneck augment-preview'."),
    ] = None
    dtype: Annotated[values.Dtype, Doc("Data type of the stored features.")] = "float16"
    compress: Annotated[
        values.Compression, Doc("Lossless compression of new parts: smaller, but slower to read.")
    ] = "none"
    batch_size: values.BatchSize = "auto"
    shard: values.ShardName | None = None
    engine: values.Engine = "local"
    ray_address: values.RayAddress | None = None
    workers: Annotated[
        values.Count | None,
        Doc("Number of Ray workers; by default one for each GPU, or for each node without GPUs."),
        values.OF_RAY,
    ] = None

    def __post_init__(self) -> None:
        values.check_views(self.views, self.augment)


@settings("Extraction")
class ExtractSettings(BaseSettings, StoreSettings):
    """How features are computed and stored."""


@settings("Base", kw_only=True)
class BasesSettings(BaseOptions, StoreSettings):
    """One or several networks, and how their features are computed and stored."""

    models: values.BaseNames

    def __post_init__(self) -> None:
        super().__post_init__()
        if repeated := next((each for each in self.models if self.models.count(each) > 1), None):
            raise UsageError(
                f"`models` has {repeated!r} more than once; give each base once, with all its "
                f"layers"
            )
        is_file = Path(self.weights).suffix.lower() in _WEIGHT_FILES or Path(self.weights).is_file()
        if len(self.models) > 1 and is_file:
            raise UsageError(
                f"`weights` {self.weights!r} is a file of one base, but `models` names "
                f"{len(self.models)}; extract this base by a command of its own"
            )

    def each(self) -> list[ExtractSettings]:
        """Return the settings of each network.

        Returns
        -------
        list of ExtractSettings
        """
        given = {name: getattr(self, name) for name in given_in(self) - {"models"}}
        return [ExtractSettings(model, **given) for model in self.models]


@settings("Features")
class SelectSettings:
    """Select features in the cache: one layer of the last matching extraction."""

    model: _ByModel = None
    layer: Annotated[str | None, Doc("Select the extraction by layer or alias.")] = None
    image_set: _BySet = None
    pool: Annotated[
        values.Pool | None, Doc("Pool stored maps and tokens, or select the extraction by pooling.")
    ] = None


@settings("Features")
class LayerSettings:
    """Select features in the cache: several layers, each with several poolings."""

    layers: Annotated[
        tuple[str, ...],
        Doc("Layer or alias; may repeat. By default all layers of the last extraction."),
    ] = ()
    pools: Annotated[
        tuple[values.Pool, ...],
        Doc("Pool stored maps and tokens; may repeat. By default as stored."),
    ] = ()
    models: Annotated[
        tuple[str, ...],
        Doc("Select the extraction by model; may repeat. all takes all bases of the image set."),
    ] = ()
    image_set: _BySet = None
    join: Annotated[bool, Doc("Also try all of these layers joined side by side.")] = False


@settings("Features", kw_only=True)
class ViewSettings:
    """Select the augmented views of training images to fit on."""

    views: Annotated[
        values.ViewCount | None,
        Doc("Augmented views to fit on: by default those of the extraction, 0 for none."),
    ] = None
    augment: Annotated[
        values.PolicyName | None,
        Doc("Select the extraction by the augmentation policy of its views."),
    ] = None

    def __post_init__(self) -> None:
        if self.augment is not None and self.views == 0:
            raise UsageError(f"`augment` {self.augment!r} needs `views` of at least 1, got 0")


@settings("Features")
class FeatureSettings(SelectSettings, ViewSettings):
    """Select features in the cache, and views of them."""


@settings("Features")
class SweepFeatures(LayerSettings, ViewSettings):
    """Select the features of a sweep."""


@settings("Features")
class FitFeatures(SweepFeatures):
    """Select the features of a head: one layer, or several that are joined."""

    layers: Annotated[
        tuple[str, ...],
        Doc("Layer or alias; by default the deepest of the last extraction. Repeats with `join`."),
    ] = ()
    join: Annotated[
        bool, Doc("Fit one head on all selected layers, bases and poolings, joined side by side.")
    ] = False


@settings("Features")
class SimilarFeatures(LayerSettings):
    """Select the features that are searched for similar images: one layer, or several joined."""

    layers: Annotated[
        tuple[str, ...],
        Doc("Layer or alias; by default the deepest of the last extraction. Repeats with `join`."),
    ] = ()
    image_set: Annotated[
        str | None,
        Doc("Image set to search; by default that of the last extraction."),
        Option("--in", metavar="SET"),
    ] = None
    join: Annotated[
        bool, Doc("Compare all selected layers, bases and poolings, each with the same weight.")
    ] = False


@settings("Array")
class ImportSettings:
    """Description of an imported array."""

    model: Annotated[
        values.Name | None, Doc("Name of the model that computed the array."), _OF_AN_ARRAY
    ] = None
    layer: Annotated[values.Name, Doc("Name of the layer."), _OF_AN_ARRAY] = "features"
    axes: Annotated[
        Literal["CHW", "HWC", "TC"] | None,
        Doc("Axes of maps or tokens, so that they can be pooled."),
        _OF_AN_ARRAY,
    ] = None
    by_row: Annotated[
        bool, Doc("Import rows without images, identified by their values."), _OF_AN_ARRAY
    ] = False
    image_set: values.NewSet = None
    seed: Annotated[values.Seed, _OF_AN_ARRAY] = 0
