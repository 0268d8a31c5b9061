"""The attention pooling that a network has itself: SigLIP's, timm's and CLIP's."""

import copy
import re
from collections.abc import Mapping

import torch
from torch import nn

from bottleneck.bases.graphs import replace_tensors, tensors_of
from bottleneck.errors import UsageError

__all__ = ["AttentionPooling"]

_KINDS = re.compile(
    "(Rot)?AttentionPool(Latent|2d|Prr)|AttentionalPooler|Siglip2?MultiheadAttentionPoolingHead"
)
"""Classes of timm, OpenCLIP and Transformers."""


class AttentionPooling:
    """The attention pooling of a network, which maps tokens or a map to one vector.

    Parameters
    ----------
    name : str
        The network's name, for messages.
    root : torch.nn.Module
        The network, on the meta device.

    Raises
    ------
    UsageError
        It has none.
    """

    def __init__(self, name: str, root: nn.Module) -> None:
        found = (each for each in root.named_modules() if _KINDS.fullmatch(type(each[1]).__name__))
        path, module = next(found, ("", None))
        if module is None:
            raise UsageError(
                f"{name} has no attention pooling, which `pool=map` means; choose another `pool`, "
                f"or a model such as timm:vit_base_patch16_siglip_224"
            )
        self._name, self._module = name, module
        self.tensors = {f"{path}.{each}": each for each in tensors_of(module)}
        # timm's networks tell whether class and register tokens take part; the others' do.
        self._whole = getattr(root, "pool_include_prefix", True)

    def shape(self, shape: tuple[int, ...], axes: str, layer: str) -> tuple[int, ...]:
        """Return the shape of one image's pooled activation.

        Parameters
        ----------
        shape : tuple of int
            Shape of one image's activation.
        axes : str
            Its axes, as in `bottleneck.pooling.pool`.
        layer : str
            Name of the layer, for the message.

        Returns
        -------
        tuple of int

        Raises
        ------
        UsageError
            The pooling does not suit the layer.
        """
        try:
            found = self(self._module, torch.empty(2, *shape, device="meta"), axes)
        except (RuntimeError, ValueError, AssertionError):
            found = torch.empty(0)
        if found.dim() != 2:  # noqa: PLR2004 - images and channels
            raise UsageError(
                f"the attention pooling of {self._name} takes no activations of shape {shape}, "
                f"which layer {layer!r} has; choose another `layer`, such as last_conv, or `pool`"
            )
        return tuple(found.shape[1:])

    def module(self, tensors: Mapping[str, torch.Tensor], device: torch.device) -> nn.Module:
        """Return the module with its weights, in float32.

        Parameters
        ----------
        tensors : mapping of str to torch.Tensor
            At least the network's `tensors`.
        device : torch.device
            The device to compute on.

        Returns
        -------
        torch.nn.Module
        """
        module: nn.Module = copy.deepcopy(self._module)
        replace_tensors(module, {own: tensors[name] for name, own in self.tensors.items()})
        return module.to(device)

    def __call__(self, module: nn.Module, values: torch.Tensor, axes: str) -> torch.Tensor:
        """Pool activations of n images.

        Parameters
        ----------
        module : torch.nn.Module
            The result of `module`.
        values : torch.Tensor
            Shape (n, ...).
        axes : str
            The axes after n, as in `bottleneck.pooling.pool`.

        Returns
        -------
        torch.Tensor
            Shape (n, C).
        """
        prefix = 0 if self._whole else int(axes[:-3] or 0) if axes.endswith("TC") else 0
        pooled: torch.Tensor = module.forward(values[:, prefix:] if prefix else values)
        return pooled
