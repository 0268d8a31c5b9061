"""The trained network: the layers above the boundary, pooling, and the head."""

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bottleneck.bases.splitting import Split
from bottleneck.pooling import pool
from bottleneck.settings import FinetuneSettings

__all__ = ["TunedNetwork", "make_optimizer"]

_MOMENTUM = 0.9
_DECAY, _EPSILON = 0.9, 1e-7
"""Of RMSprop's mean of squares, as in Keras: learning rates of recipes for it mean these."""


class TunedNetwork(nn.Module):
    """Computes scores of images from their activations at the boundary.

    Parameters
    ----------
    upper : torch.nn.Module
        The result of `bottleneck.bases.upper_part`.
    head : torch.nn.Module
        The head as a module that takes pooled features.
    how, axes : str
        Pooling of the last activations, see `bottleneck.pooling.pool`.
    split : Split
        What is trained.
    freeze_batch_norm : bool
        Whether batch normalization keeps its mean and variance; otherwise, where it is trained, it
        uses and updates those of each batch.
    """

    def __init__(
        self,
        upper: nn.Module,
        head: nn.Module,
        split: Split,
        *,
        how: str,
        axes: str,
        freeze_batch_norm: bool,
    ) -> None:
        super().__init__()
        self.upper, self.head = upper, head
        self._how, self._axes, self._split = how, axes, split
        self._freeze_batch_norm = freeze_batch_norm
        self.upper.to(memory_format=torch.channels_last)
        self.head.requires_grad_(requires_grad=True)

    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        """Return scores of shape (n, k) from activations of the boundary (n, ...).

        Parameters
        ----------
        activations : torch.Tensor
            Shape (n, ...).

        Returns
        -------
        torch.Tensor
            float32 of shape (n, k).
        """
        maps = self.upper.forward(activations).float()  # called, it prints tracebacks of errors
        scores: torch.Tensor = self.head(pool(maps, self._how, self._axes).flatten(1))
        return scores

    def train(self, mode: bool = True) -> "TunedNetwork":  # noqa: FBT001, FBT002 - as in torch
        """Switch the trained layers to training mode; frozen layers stay in evaluation mode.

        Parameters
        ----------
        mode : bool
            False switches to evaluation mode.

        Returns
        -------
        TunedNetwork
            Itself.
        """
        super().train(mode=False)
        self.training = mode
        self.head.train(mode)
        for name in self._split.modules:
            self.upper.get_submodule(name).train(mode)
        if self._freeze_batch_norm:
            for module in self.upper.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def tuned(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield all that training changes, by name: parameters, and buffers of trained modules."""
        modules = tuple(f"upper.{name}." for name in self._split.modules)
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                yield name, parameter
        for name, buffer in self.named_buffers():
            if name.startswith(modules):
                yield name, buffer

    def tuned_state(self) -> dict[str, torch.Tensor]:
        """Return copies of everything that training changes, on the CPU."""
        return {name: each.detach().to("cpu", copy=True) for name, each in self.tuned()}

    def load_tuned(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore a state from `tuned_state`.

        Parameters
        ----------
        state : mapping of str to torch.Tensor
            Name to values, on any device.

        Raises
        ------
        KeyError
            A name is missing.
        """
        with torch.no_grad():
            for name, each in self.tuned():
                each.copy_(state[name])

    def rates(self) -> Iterator[tuple[nn.Parameter, int | None]]:
        """Yield trained parameters with their depth, see `Split`; None for those of the head."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                place, _, own = name.partition(".")
                yield parameter, self._split.trained[own] if place == "upper" else None


def make_optimizer(network: TunedNetwork, settings: FinetuneSettings) -> torch.optim.Optimizer:
    """Return an optimizer with a parameter group for the learning rate of each block.

    Parameters
    ----------
    network : TunedNetwork
        The network with the trained parameters.
    settings : FinetuneSettings
        Optimizer, learning rates and weight decay.

    Returns
    -------
    torch.optim.Optimizer
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for parameter, depth in network.rates():
        share = 1.0 if depth is None else settings.backbone_lr_factor * settings.layer_decay**depth
        decay = settings.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((settings.learning_rate * share, decay), []).append(parameter)
    listed = [
        {"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]
    # Fused optimizers unscale gradients themselves, too late for clipping.
    fused = settings.precision != "fp16"
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(listed, fused=fused)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(listed, settings.learning_rate, momentum=_MOMENTUM, fused=fused)
    return torch.optim.RMSprop(listed, alpha=_DECAY, eps=_EPSILON)
