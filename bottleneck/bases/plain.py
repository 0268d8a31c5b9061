"""A base as one plain module, to export it or to hand it to another library."""

from collections.abc import Mapping

import torch
from torch import nn

from bottleneck.bases.attending import AttentionPooling
from bottleneck.pooling import pool

__all__ = ["PlainBase"]


class PlainBase(nn.Module):
    """Computes the pooled layers of images by PyTorch's usual operations.

    Parameters
    ----------
    network : torch.nn.Module
        Maps images to a dict of layer to activation.
    pools : dict of str to (str, str)
        Layer to its pooling, and the axes of its activation.
    attention : AttentionPooling, optional
        The network's own pooling, which ``map`` means.
    tensors : dict of str to torch.Tensor
        At least its weights.
    whole : torch.nn.Module
        The whole network, on the meta device.
    """

    def __init__(
        self,
        network: nn.Module,
        pools: Mapping[str, tuple[str, str]],
        attention: AttentionPooling | None,
        tensors: Mapping[str, torch.Tensor],
        whole: nn.Module,
    ) -> None:
        super().__init__()
        self.network = network
        for name, each in network.named_parameters():
            if not each.numel():  # not reached, but exporters of networks with hooks pass by
                each.data = torch.zeros(()).expand(whole.get_parameter(name).shape)
        self.pooler = attention and attention.module(tensors, torch.device("cpu"))
        self._pools, self._attention = pools, attention

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the layers of images of shape (n, 3, height, width), each of shape (n, ...)."""
        return {layer: self._pooled(layer, found) for layer, found in self.network(images).items()}

    def _pooled(self, layer: str, values: torch.Tensor) -> torch.Tensor:
        how, axes = self._pools[layer]
        if how == "map" and self._attention and self.pooler:
            return self._attention(self.pooler, values, axes)
        return pool(values, how, axes)
