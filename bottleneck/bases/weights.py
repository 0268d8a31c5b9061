"""Weights from a library, a file or a seed. Loading never runs pickled code."""

import hashlib
import os
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bottleneck.bases.model_files import read_tensors
from bottleneck.bases.models import Model, PretrainedWeights, StateDict
from bottleneck.bases.network import Network, traced
from bottleneck.errors import (
    PathMissingError,
    UnknownNameError,
    WeightsError,
    did_you_mean,
    is_out_of_memory,
    reworded,
    some_of,
)

__all__ = ["digest_tensors", "load_weights", "used_tensors"]

_FILE_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_WRAPPERS = (
    *("state_dict_ema", "state_dict", "model_state_dict", "model_ema", "model", "teacher"),
    *("student", "net", "network", "backbone", "encoder"),
)
"""Keys under which training scripts save a state dict; the first of equally good ones is used."""
_PREFIXES = (
    *("_orig_mod", "module", "model_ema", "model", "teacher", "student", "net", "network"),
    *("backbone", "encoder_q", "base_encoder", "encoder"),
)
"""Words that the wrappers of a network put before the names of its tensors, in any order."""
_RENAMED = {
    r"(denselayer\d+\.(?:norm|conv))\.([12])\.": r"\1\2.",
    r"\.mlp\.linear_1\.": ".mlp.0.",
    r"\.mlp\.linear_2\.": ".mlp.3.",
}
_SHOWN = 3
_LONGEST_NAME = 100
_REMEDY = (
    "give them with `weights=FILE` (a .pth state dict or .safetensors), or, for testing only, "
    "`weights=random`"
)


def load_weights(model: Model, choice: str) -> tuple[str, PretrainedWeights]:
    """Select a model's weights.

    Parameters
    ----------
    model : Model
        The model.
    choice : str
        ``default``, the library's name for them, ``random`` or ``random:SEED`` (for testing only),
        or a file: ``.pth`` state dict or ``.safetensors``. A file with the name under which the
        library publishes weights gets the preprocessing of those weights, any other file that of
        the default weights.

    Returns
    -------
    name : str
        ``random:SEED``, the library's name for them, or the file's path.
    weights : PretrainedWeights
        Their `load` reads or computes them, and raises `PathMissingError` if the file does not
        exist, or `WeightsError` if they cannot be had or are damaged. Their `transform` is that of
        these weights, or of the model's default weights.

    Raises
    ------
    UnknownNameError
        The weights do not exist.
    WeightsError
        The default weights were requested, but the model has none.
    """
    if choice == "default" and not model.weights:
        raise WeightsError(f"{model.library} has no weights for {model.name}; {_REMEDY}")
    if choice in {"default", *model.weights}:
        name = next(iter(model.weights)) if choice == "default" else choice
        return name, replace(model.weights[name], load=partial(_pretrained, model, name))
    if re.fullmatch(r"random(:\d{0,19})?", choice):  # PyTorch takes all seeds of 19 digits
        seed = choice.partition(":")[2] or "0"
        random = PretrainedWeights(partial(_random, model, int(seed)), model.transform)
        return f"random:{seed}", random
    file = Path(choice)
    if file.exists() or choice.lower().endswith(_FILE_SUFFIXES):
        same_name = (each.transform for each in model.weights.values() if each.file == file.name)
        transform = next(same_name, model.transform)
        return choice, PretrainedWeights(partial(_read, file, model, transform.crop), transform)
    known = (*(("default", *model.weights) if model.weights else ()), "random")
    raise UnknownNameError(
        f"no weights {choice!r} for {model.name}; expected one of {', '.join(known)}, random:SEED "
        f"or a .pth or .safetensors file{did_you_mean(choice, known)}"
    )


def used_tensors(
    weights: str,
    state: StateDict,
    network: Network,
    layers: Iterable[str],
    required: Iterable[str],
    *,
    more: Iterable[str] = (),
) -> StateDict:
    """Return the tensors that some layers need, and reject weights of another architecture.

    The tensors of `layers` and of `required` must exist and have the right shape, and those of
    `layers` must be finite. Others, such as the classifier's, may be missing or of another shape,
    so that a network trained on other classes is accepted. Unknown tensors of a training method,
    such as a projection or a queue, are ignored; but an unknown tensor in a module that is needed
    is a sign of another architecture: ``layer3.6.conv1.weight`` of a deeper ResNet.

    Parameters
    ----------
    weights : str
        Name of the weights, for messages.
    state : dict of str to torch.Tensor
        All weights of the network.
    network : Network
        The network.
    layers, required : iterable of str
        Layer names from `Network.resolve`.
    more : iterable of str
        Tensors that are needed besides.

    Returns
    -------
    dict of str to torch.Tensor
        The tensors in `more` and in `Network.tensors` of each of `layers`, including the
        architecture's own constants; floating-point numbers as float32.

    Raises
    ------
    WeightsError
        Tensors do not fit; the message names the first missing and unknown ones and counts the
        others.
    """
    model, expected = network.name, network.root.state_dict()
    state = network.at_size(state)
    parameters = {name for name, _ in network.root.named_parameters(remove_duplicate=False)}
    used = {*more, *(name for layer in layers for name in network.tensors(layer))}
    told = {name for layer in required for name in network.tensors(layer)}
    if misfits := _misfits(state, expected, (used | told) & expected.keys()):
        raise WeightsError(
            f"weights {weights!r} do not fit {model}: {misfits}; give a state dict of {model}, or "
            f"name the model that these weights belong to"
        )
    for name in sorted(used & state.keys()):
        given = state[name]
        numbers = given.layout is torch.strided and not given.is_quantized and not given.is_meta
        if not numbers or given.is_floating_point() != expected[name].is_floating_point():
            raise WeightsError(
                f"weights {weights!r} of {model} have {name} as {given.dtype} on "
                f"{given.device}, {given.layout}; expected a dense tensor of "
                f"{expected[name].dtype}: give the state dict that training saved"
            )
        # A limit that a network keeps in a buffer may be infinite.
        if given.isnan().any() or (name in parameters and given.isinf().any()):
            raise WeightsError(
                f"weights {weights!r} of {model} contain nan or inf in {name}; choose a layer "
                f"that does not depend on it, or other weights"
            )
    known = state | network.constants
    return {
        name: known[name].float() if known[name].is_floating_point() else known[name]
        for name in used
    }


def _misfits(state: StateDict, expected: StateDict, needed: Collection[str]) -> str:
    """Return the tensors that do not fit, or ``""``."""
    found, shapes = (
        {name: tuple(tensor.shape) for name, tensor in each.items()} for each in (state, expected)
    )
    missing = [name for name in sorted(needed) if name not in found]
    wrong = [name for name in sorted(needed) if found.get(name, shapes[name]) != shapes[name]]
    unknown = [name for name in found if name not in shapes]
    modules = {name.partition(".")[0] for name in needed}
    inside = [name for name in unknown if name.partition(".")[0] in modules]
    if not (missing or wrong or inside):
        return ""
    unknown = inside or unknown
    told = {
        "missing": [f"{name} {shapes[name]}" for name in missing],
        "unknown": [f"{_printable(name)} {found[name]}" for name in unknown],
        "of another shape": [f"{name} {found[name]}, expected {shapes[name]}" for name in wrong],
    }
    return "; ".join(
        f"{kind}: {some_of(names, most=_SHOWN)}" for kind, names in told.items() if names
    )


def _printable(name: str) -> str:
    return name if name.isprintable() and len(name) <= _LONGEST_NAME else reprlib.repr(name)


def digest_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of tensors.

    Parameters
    ----------
    tensors : mapping of str to torch.Tensor
        Tensors on the CPU, by name.

    Returns
    -------
    str
        64 hexadecimal digits; the order of the mapping has no effect.
    """
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().contiguous().flatten().numpy().data)
    return total.hexdigest()


def _random(model: Model, seed: int) -> StateDict:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return dict(model.build(model.transform.crop).state_dict())


def _pretrained(model: Model, name: str) -> StateDict:
    entry = model.weights[name]

    def failed(error: Exception) -> WeightsError:
        if isinstance(error, OSError):  # no network, no such host, refused: all of urllib's errors
            reason = str(getattr(error, "reason", error)).partition("\n")[0]
            return WeightsError(
                f"weights {name} of {model.name} are not in {entry.place} and cannot be "
                f"downloaded ({reason}); {_REMEDY}"
            )
        return WeightsError(
            f"weights {name} of {model.name} in {entry.place} are damaged "
            f"({type(error).__name__}); delete {entry.file or 'them'} there to download them "
            f"again, or {_REMEDY}"
        )

    with reworded(failed):  # damaged bytes make the readers raise whatever they meet
        return _with_todays_names(entry.load())


def _read(file: Path, model: Model, image_size: tuple[int, int]) -> StateDict:
    if not os.path.isfile(file):  # noqa: PTH113 - of any text
        raise PathMissingError(f"no weights file {str(file)!r}; give a .pth or .safetensors file")
    content = read_tensors(file)
    known = traced(model, image_size).root.state_dict().keys()
    states = [
        _without_prefix(_with_todays_names(_tensors(each)), known)
        for each in _dictionaries(content, set())
    ]
    state = max(states, key=lambda each: len(known & each.keys()))
    if model.convert and known - state.keys():
        converted = _converted(state, model.convert)
        return max(state, converted, key=lambda each: len(known & each.keys()))
    return state


def _converted(state: StateDict, convert: Callable[[StateDict], StateDict]) -> StateDict:
    """Convert a state dict, if its layout is one that a library knows."""
    try:
        return convert(state)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return state  # the error that tells what does not fit comes later


def _without_prefix(state: StateDict, known: Collection[str]) -> StateDict:
    prefix = _prefix(state, known)
    own = {
        name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)
    }
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefix)} | own


def _dictionaries(content: dict[Any, Any], seen: set[int]) -> Iterator[dict[Any, Any]]:
    """Yield the dictionaries that training scripts wrap in each other, the inner ones first."""
    seen.add(id(content))
    for name in _WRAPPERS:
        inner = content.get(name)
        if isinstance(inner, dict) and id(inner) not in seen:
            yield from _dictionaries(inner, seen)
    yield content


def _tensors(content: Mapping[Any, Any]) -> StateDict:
    return {str(name): each for name, each in content.items() if torch.is_tensor(each)}


def _prefix(state: StateDict, known: Collection[str]) -> str:
    """Return the prefix with which most known names are in a state dict; the shortest of equals.

    If none is, as with another architecture, return the one that all names have in common.
    """
    found = Counter(prefix for name in state for prefix in _prefixes(name))
    fitting = {each: sum(f"{each}{name}" in state for name in known) for each in found}
    best = max(fitting.values(), default=0)
    if not best:
        return max((each for each in found if found[each] == len(state)), key=len, default="")
    return min((each for each in found if fitting[each] == best), key=_rank)


def _prefixes(name: str) -> Iterator[str]:
    """Yield the beginnings of a tensor's name that wrappers may have added."""
    prefix = ""
    yield prefix
    for word in name.split(".")[:-1]:
        if word not in _PREFIXES:
            return
        prefix += f"{word}."
        yield prefix


def _rank(prefix: str) -> list[int]:
    return [_PREFIXES.index(word) for word in prefix.split(".")[:-1]]


def _with_todays_names(state: StateDict) -> StateDict:
    """Rename the tensors of a state dict to torchvision's current names.

    Its published DenseNet and ViT files have older names, which it changes when loading them.
    """
    for pattern, replacement in _RENAMED.items():
        state = {re.sub(pattern, replacement, name): tensor for name, tensor in state.items()}
    return state
