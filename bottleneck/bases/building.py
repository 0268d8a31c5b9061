"""Build a network: for images of one size, quickly, and with values only where they are kept."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from bottleneck.errors import UsageError

__all__ = ["built", "check_inputs", "on_meta", "one_input"]


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
        with torch.device("meta"):
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
        if in_place and args and isinstance(args[0], nn.Parameter) and name not in _KEPT:
            return args[0]
        return func(*args, **(kwargs or {}))


_KEPT = {"requires_grad_"}
"""Changes of a parameter that are no changes of its values."""


def check_inputs(network: nn.Module) -> None:
    """Check that a network is called with one batch of images.

    Parameters
    ----------
    network : torch.nn.Module
        The network.

    Raises
    ------
    UsageError
        It needs no input or several.
    """
    needed = [each.name for each in _inputs(network) if each.default is each.empty]
    if len(needed) != 1 and _inputs(network):
        raise UsageError(
            f"{type(network).__name__} takes {len(needed)} inputs ({', '.join(needed)}); expected "
            f"a network that takes one batch of images: choose another model, or wrap it in a "
            f"module whose forward takes only the images"
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
