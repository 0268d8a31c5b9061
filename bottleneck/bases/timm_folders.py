"""timm's networks in folders and in repositories of the Hugging Face Hub.

timm's layout is a ``config.json`` with the architecture, its arguments and the preprocessing,
beside the weights: what `timm.models.save_for_hf` writes.
"""

from functools import partial
from typing import Any

from bottleneck.bases.hub import Repository
from bottleneck.bases.model_files import (
    Folder,
    ModelFiles,
    described,
    read_config,
    read_tensors,
    weights_file,
)
from bottleneck.bases.models import Model, PretrainedWeights, StateDict
from bottleneck.bases.timm_models import (
    build_timm,
    converted_by_timm,
    loaded_by_timm,
    transform_of_timm,
)
from bottleneck.errors import (
    UnknownNameError,
    WeightsError,
    did_you_mean,
    first_line,
    reworded,
)

__all__ = ["from_folder", "from_hub"]

_CONFIG = "config.json"
_WEIGHTS = (
    *("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"),
    *("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
)
"""The names that timm looks for, in its order."""


def from_folder(path: str, name: str) -> Model:
    """Return a network of timm from a folder.

    Parameters
    ----------
    path : str
        The folder.
    name : str
        Name of the model as given by the user.

    Returns
    -------
    Model

    Raises
    ------
    PathMissingError, UnknownNameError
        There is no such folder, or it has no network of timm.
    UsageError
        The model's preprocessing is not supported.
    WeightsError
        The folder's ``config.json`` is damaged.
    """
    return _from_files(Folder(path, name))


def from_hub(repository: str, name: str) -> Model:
    """Return a network of timm from a repository of the Hugging Face Hub.

    Parameters
    ----------
    repository : str
        ``ORG/NAME`` or ``ORG/NAME@REVISION``.
    name : str
        Name of the model as given by the user.

    Returns
    -------
    Model

    Raises
    ------
    UnknownNameError
        There is no such repository, or it has no network of timm.
    UsageError
        The model's preprocessing is not supported.
    WeightsError
        Its ``config.json`` is neither in the local cache nor can be downloaded, or is damaged.
    """
    return _from_files(Repository(repository, name))


def _from_files(files: ModelFiles) -> Model:
    import timm

    from bottleneck.bases.building import on_meta

    config = read_config(files, _CONFIG)
    place = f"{_CONFIG} of {files.name!r}"
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        raise UnknownNameError(f"{place} does not describe a network of timm{_hint(config)}")
    if not timm.is_model(architecture):
        near = did_you_mean(architecture, timm.list_models())
        raise UnknownNameError(
            f"{place} names the architecture {architecture!r}, which timm {timm.__version__} does "
            f"not have{near or '; install another version of timm'}"
        )
    folder = str(weights_file(files, _CONFIG).parent)
    build = partial(build_timm, f"local-dir:{folder}")

    def failed(error: Exception) -> WeightsError:
        kind = type(error).__name__
        return WeightsError(f"{place} does not suit timm ({kind}: {first_line(error)})")

    with reworded(failed):
        network: Any = on_meta(build)
        transform = transform_of_timm(network.pretrained_cfg, files.name)
    pretrained = PretrainedWeights(partial(_load, files), transform, files.place, _WEIGHTS[0])
    return Model(
        name=files.name,
        architecture=described(f"timm:{architecture}", config.get("model_args")),
        build=build,
        transform=transform,
        weights={"pretrained": pretrained},
        convert=partial(converted_by_timm, f"local-dir:{folder}"),
    )


def _hint(config: dict[str, Any]) -> str:
    if "model_type" in config:
        return "; it is a model of Transformers: give it as hf:ORG/NAME or hf:FOLDER"
    return "; expected an architecture"


def _load(files: ModelFiles) -> StateDict:
    """Read the weights, and let timm convert them to its current names."""
    file = weights_file(files, *_WEIGHTS)
    return loaded_by_timm(f"local-dir:{file.parent}", read_tensors(file))
