"""Weights from a library, a file or a seed. Loading never runs pickled code."""

import hashlib
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bottleneck.bases.models import Model, StateDict, Transform
from bottleneck.errors import (
    BottleneckError,
    PathMissingError,
    UnknownNameError,
    WeightsError,
    did_you_mean,
    is_out_of_memory,
)

__all__ = ["Weights", "check_weights", "digest_tensors", "load_weights"]

_FILE_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_WRAPPERS = ("state_dict", "model_state_dict", "model_ema", "model")
_AVERAGING_COUNTER = "n_averaged"
_PREFIXES = ("model.", "_orig_mod.", "module.")
_RENAMED = (
    (r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),
    (r"\.mlp\.linear_1\.", ".mlp.0."),
    (r"\.mlp\.linear_2\.", ".mlp.3."),
)
_SEEDS = 2**63
_REMEDY = (
    "give them with `weights=FILE` (a .pth state dict or .safetensors), or, for testing only, "
    "`weights=random`"
)


@dataclass(frozen=True)
class Weights:
    """Weights as loaded.

    Attributes
    ----------
    name : str
        ``random:SEED``, the library's name for them, or the file's path.
    state : dict of str to torch.Tensor
        By the architecture's own tensor names.
    transform : Transform
        The preprocessing that belongs to them, or to the model's default weights.
    """

    name: str
    state: StateDict
    transform: Transform


def load_weights(model: Model, choice: str) -> Weights:
    """Load a model's weights.

    Parameters
    ----------
    model : Model
        Whose weights.
    choice : str
        ``default``, the library's name for them, ``random`` or ``random:SEED`` (for
        testing only), or a file: ``.pth`` state dict or ``.safetensors``. A file that has the
        name under which the library publishes weights is preprocessed for as those are, any other
        file as the default ones.

    Raises
    ------
    UnknownNameError
        There are no weights of that name.
    PathMissingError
        There is no such file.
    WeightsError
        The weights can be had neither locally nor from the network, or the file is not one of
        weights.
    """
    if choice == "default" and not model.weights:
        raise WeightsError(f"{model.library} has no weights for {model.name}; {_REMEDY}")
    if choice in {"default", *model.weights}:
        return _pretrained(model, next(iter(model.weights)) if choice == "default" else choice)
    kind, _, seed = choice.partition(":")
    seeded = (seed or "0").isdecimal() and len(seed) <= len(str(_SEEDS)) and int(seed or 0) < _SEEDS
    if kind == "random" and seeded:
        return Weights(f"random:{seed or 0}", _random(model, int(seed or 0)), model.transform)
    if Path(choice).exists() or choice.lower().endswith(_FILE_SUFFIXES):
        file = Path(choice)
        same_name = (each.transform for each in model.weights.values() if each.file == file.name)
        return Weights(choice, _read(file), next(same_name, model.transform))
    known = (*(("default", *model.weights) if model.weights else ()), "random")
    raise UnknownNameError(
        f"no weights {choice!r} for {model.name}; expected one of {', '.join(known)}, random:SEED "
        f"or a .pth or .safetensors file{did_you_mean(choice, known)}"
    )


def check_weights(
    model: str,
    weights: Weights,
    expected: Mapping[str, torch.Tensor],
    used: AbstractSet[str],
    required: AbstractSet[str],
) -> None:
    """Refuse weights of another architecture.

    The tensors that are `used` or `required` must be there and fit, and those that are used must
    hold finite numbers. Others, such as the classifier's, may be missing or of another shape, so
    that a network trained on other classes serves; but a tensor that the architecture does not know
    at all betrays another one.

    Raises
    ------
    WeightsError
        Names the first misfits and counts the others.
    """
    found = {name: tuple(tensor.shape) for name, tensor in weights.state.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    needed = sorted(name for name in used | required if name in shapes)
    misfits = [
        *(f"{name} of shape {shapes[name]} is missing" for name in needed if name not in found),
        *(
            f"{name} of shape {shape} is not known"
            for name, shape in found.items()
            if name not in shapes
        ),
        *(
            f"{name} has shape {found[name]}, expected {shapes[name]}"
            for name in needed
            if name in found and found[name] != shapes[name]
        ),
    ]
    if misfits:
        shown = 5
        more = f" and {len(misfits) - shown} more" if len(misfits) > shown else ""
        raise WeightsError(
            f"weights {weights.name!r} do not fit {model}: {'; '.join(misfits[:shown])}{more}; "
            f"give a state dict of {model}, or name the model that these weights belong to"
        )
    for name in sorted(used & weights.state.keys()):
        given = weights.state[name]
        numbers = given.layout is torch.strided and not given.is_quantized and not given.is_meta
        if not numbers or given.is_floating_point() != expected[name].is_floating_point():
            raise WeightsError(
                f"weights {weights.name!r} of {model} have {name} as {given.dtype} on "
                f"{given.device}, {given.layout}; expected plain numbers, as "
                f"{expected[name].dtype}: give a state dict as the training left it"
            )
        if not given.isfinite().all():
            raise WeightsError(
                f"weights {weights.name!r} of {model} hold nan or inf in {name}; choose a layer "
                f"that does not depend on it, or other weights"
            )


def digest_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of tensors."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().contiguous().flatten().numpy().data)
    return total.hexdigest()


def _random(model: Model, seed: int) -> StateDict:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return dict(model.build(model.transform.crop).state_dict())


def _pretrained(model: Model, name: str) -> Weights:
    entry = model.weights[name]
    try:
        return Weights(name, _with_todays_names(entry.load()), entry.transform)
    except OSError as error:  # no network, no such host, refused: urllib's errors are all of these
        reason = str(getattr(error, "reason", error)).partition("\n")[0]
        raise WeightsError(
            f"weights {name} of {model.name} are not in {entry.place} and cannot be downloaded "
            f"({reason}); {_REMEDY}"
        ) from error
    except BottleneckError:
        raise
    except Exception as error:  # damaged bytes make the readers raise whatever they meet
        if is_out_of_memory(error):
            raise
        raise WeightsError(
            f"weights {name} of {model.name} in {entry.place} are damaged "
            f"({type(error).__name__}); delete {entry.file or 'them'} there to download them "
            f"again, or {_REMEDY}"
        ) from error


def _read(file: Path) -> StateDict:
    if not file.is_file():
        raise PathMissingError(f"no weights file {str(file)!r}; give a .pth or .safetensors file")
    try:
        if file.suffix.lower() == ".safetensors":
            content: Any = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the readers raise whatever they meet
        if is_out_of_memory(error):
            raise
        raise WeightsError(
            f"weights file {str(file)!r} cannot be read as plain tensors "
            f"({type(error).__name__}); expected a state dict saved by torch.save, or a "
            f".safetensors file"
        ) from error
    content = _unwrapped(content)
    if not isinstance(content, dict) or not content:
        raise WeightsError(
            f"weights file {str(file)!r} holds a {type(content).__name__}, expected a state dict: "
            f"save it with torch.save(model.state_dict(), FILE)"
        )
    tensors = {
        str(name): value
        for name, value in content.items()
        if torch.is_tensor(value) and name != _AVERAGING_COUNTER
    }
    while tensors and (prefix := _common_prefix(tensors)):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return _with_todays_names(tensors)


def _unwrapped(content: Any) -> Any:
    """Return what the dictionaries that training scripts save hold inside."""
    if isinstance(content, dict):
        for name in _WRAPPERS:
            if isinstance(content.get(name), dict):
                return _unwrapped(content[name])
    return content


def _common_prefix(tensors: StateDict) -> str:
    """Return what a wrapper has put before every name."""
    return next((each for each in _PREFIXES if all(name.startswith(each) for name in tensors)), "")


def _with_todays_names(state: StateDict) -> StateDict:
    """Return a state dict with names as torchvision has them now.

    Its published DenseNet and ViT files have older names, which it changes when it loads them.
    """
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)  # noqa: PLW2901 - one name, step by step
        renamed[name] = tensor
    return renamed
