"""Build a network: for images of one size, quickly, and with values only where they are kept."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from bottleneck.bases.models import StateDict
from bottleneck.errors import UsageError, some_of

__all__ = [
    "built",
    "built_for",
    "built_size",
    "check_network",
    "on_meta",
    "one_input",
    "patch_side",
    "resampled",
    "without_output",
]


def built(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network whose weights have arbitrary values, which saves their initialisation.

    Everything that is not a parameter, such as a table of positions, has its own values.

    Parameters
    ----------
    build : callable
        Returns the network.

    Returns
    -------
    torch.nn.Module
        On the CPU, in evaluation mode.
    """
    with _WithoutInitialisation():
        return build().eval()


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network on the meta device, without any values, if its constructor supports it.

    Parameters
    ----------
    build : callable
        Returns the network.

    Returns
    -------
    torch.nn.Module
        On the meta device, in evaluation mode.
    """
    try:
        with torch.device("meta"), _WithoutInitialisation():
            return build().eval()
    except RuntimeError:  # the constructor looks at values
        return built(build).to("meta")


class _WithoutInitialisation(TorchFunctionMode):
    """Skips operations that change parameters in place, which loading weights overwrites."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        in_place = name.endswith("_") and not name.endswith("__")
        changed = args[0] if args else (kwargs or {}).get("tensor")  # so torch.nn.init hands it on
        if in_place and isinstance(changed, nn.Parameter) and name not in _KEPT:
            return changed
        return func(*args, **(kwargs or {}))


_KEPT = {"requires_grad_"}
"""Changes of a parameter that are no changes of its values."""


def check_network(network: nn.Module) -> None:
    """Check that a network is called with one batch of images, and that weights can be loaded.

    Parameters
    ----------
    network : torch.nn.Module
        The network.

    Raises
    ------
    UsageError
        It needs no input or several, or keeps a tensor that was computed from initial weights.
    """
    loaded = network.state_dict().keys()
    for name, module in network.named_modules():
        for key, value in {**vars(module), **dict(module.named_buffers(recurse=False))}.items():
            kept = isinstance(value, torch.Tensor) and value.grad_fn is not None
            if kept and f"{name}.{key}".lstrip(".") not in loaded:
                raise UsageError(
                    f"it stores {key}, which is computed from weights when {type(network).__name__}"
                    f" is built, and not again when weights are loaded; compute it in forward"
                )
    needed = [each.name for each in _inputs(network) if each.default is each.empty]
    if len(needed) != 1 and _inputs(network):
        raise UsageError(
            f"{type(network).__name__} takes {len(needed)} inputs ({', '.join(needed)}); expected "
            f"a network that takes one batch of images: choose another model, or wrap it in a "
            f"module whose forward takes only the images"
        )


def without_output() -> UsageError:
    """Return the error for a network whose output has no row for each image.

    Returns
    -------
    UsageError
    """
    return UsageError(
        "its output has no tensor with a row for each image; expected a network that maps images "
        "to a tensor, or to several in a tuple or dict: choose another model"
    )


def _inputs(network: nn.Module) -> list[inspect.Parameter]:
    named = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    found = inspect.signature(network.forward).parameters.values()
    return [each for each in found if each.kind not in named]


@contextmanager
def one_input(network: nn.Module) -> Iterator[None]:
    """Hide the optional inputs of a network, which would be traced as if they were given.

    Parameters
    ----------
    network : torch.nn.Module
        The network, which is changed meanwhile.

    Yields
    ------
    None
    """
    kind = type(network)
    if len(_inputs(network)) > 1:

        def forward(self: Any, images: torch.Tensor) -> Any:
            return kind.forward(self, images)

        network.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    try:
        yield
    finally:
        network.__class__ = kind


def built_size(network: nn.Module) -> tuple[int, int] | None:
    """Return the only image size that a network takes, if it is one that can be changed.

    Parameters
    ----------
    network : torch.nn.Module
        The network.

    Returns
    -------
    (int, int) or None
        Height and width in pixels; None for networks without timm's ``set_input_size``, unless
        `built_for` has built them for another size.
    """
    if hasattr(network, "set_input_size"):
        return getattr(getattr(network, "patch_embed", None), "img_size", None)
    return getattr(network, _BUILT_FOR, None)


_BUILT_FOR = "bottleneck_built_for"
"""Attribute of a network that was built by timm's ``img_size``, with that size."""


def patch_side(network: nn.Module) -> int | None:
    """Return the side of the patches into which a network divides images.

    Parameters
    ----------
    network : torch.nn.Module
        The network.

    Returns
    -------
    int or None
        In pixels; None for networks without patches.
    """
    for name in ("patch_embed", "embeds"):
        side = getattr(getattr(network, name, None), "patch_size", None)
        if side is not None:
            return int(side[0] if isinstance(side, tuple | list) else side)
    return None


def built_for(
    build: Callable[[tuple[int, int]], nn.Module], own: tuple[int, int], size: tuple[int, int]
) -> nn.Module:
    """Build a network for images of a size: by timm's ``set_input_size``, or its ``img_size``.

    Position embeddings are resampled by ``set_input_size``, as timm does when it loads weights of
    another size.

    Parameters
    ----------
    build : callable
        Takes a height and width in pixels, and returns the network for images of that size.
    own, size : (int, int)
        The size that its weights were trained on, and the one to build it for. If the network takes
        any size, or its size cannot be changed, it is built as for `own`.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    UsageError
        The sides are not multiples of the network's patches.
    """
    network = build(own)
    change: Any = getattr(network, "set_input_size", None)
    if not change:
        if size == own or "img_size" not in inspect.signature(type(network)).parameters:
            return network
        network = build(size)
        setattr(network, _BUILT_FOR, size)
        return network
    old = built_size(network)
    if old is None or tuple(old) == size:
        return network
    patch = getattr(network, "patch_embed", None)
    if not getattr(patch, "dynamic_img_pad", False):
        _check_patches(size, getattr(patch, "patch_size", (1, 1)))
    change(img_size=size)
    return network


def _check_patches(size: tuple[int, int], patch: tuple[int, int]) -> None:
    if any(side % each for side, each in zip(size, patch, strict=True)):
        near = [max(1, round(side / each)) * each for side, each in zip(size, patch, strict=True)]
        raise UsageError(
            f"images of {size[0]} x {size[1]} pixels cannot be divided into the network's patches "
            f"of {patch[0]} x {patch[1]}; give an `image_size` of multiples, such as "
            f"{near[0]}x{near[1]}"
        )


def resampled(
    state: StateDict,
    expected: StateDict,
    build: Callable[[tuple[int, int]], nn.Module],
    own: tuple[int, int],
    size: tuple[int, int],
) -> StateDict:
    """Return weights for another image size, which change where they depend on positions.

    Parameters
    ----------
    state : dict of str to torch.Tensor
        Weights for the size that the network is built for, or already for the other one.
    expected : dict of str to torch.Tensor
        Tensors of the shapes that the network of the other size has.
    build, own, size
        As for `built_for`.

    Returns
    -------
    dict of str to torch.Tensor
        The same tensors, except those of another shape.

    Raises
    ------
    UsageError
        timm cannot resample a tensor.
    """
    wrong = _misshapen(state, expected)
    if not wrong:
        return state
    network = built(partial(build, own))
    wrong -= _misshapen(state, network.state_dict())  # these belong to another network
    if built_size(network) is None:
        other = built(partial(build, size))
        convert = getattr(sys.modules[type(other).__module__], "checkpoint_filter_fn", None)
        found = convert(dict(state), other) if convert and wrong else state
    else:
        network.load_state_dict({name: state[name] for name in wrong}, strict=False)
        network.set_input_size(img_size=size)  # type: ignore[operator]
        found = network.state_dict()
    changed = {name: found[name].detach() for name in wrong}
    if fixed := sorted(_misshapen(changed, expected)):
        raise UsageError(
            f"these weights are for images of {own[0]} x {own[1]} pixels only, because timm cannot "
            f"resample {some_of(fixed, most=2)} for other sizes; leave out `image_size`, or choose "
            f"another model"
        )
    return state | changed


def _misshapen(state: StateDict, expected: StateDict) -> set[str]:
    return {
        name
        for name, each in state.items()
        if name in expected and each.shape != expected[name].shape
    }
