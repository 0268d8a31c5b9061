"""Optimizers with their rates, the schedule of these, and the losses."""

from math import cos, pi

import torch
from torch.nn import functional

from bottleneck.finetune.network import TunedNetwork
from bottleneck.settings import FinetuneSettings

__all__ = ["losses", "make_optimizer", "rate_factor", "set_rates"]

_MOMENTUM = 0.9
_BASE_RATE = "base_rate"


def make_optimizer(network: TunedNetwork, settings: FinetuneSettings) -> torch.optim.Optimizer:
    """Return an optimizer that knows the rate of each block, see `FinetuneSettings`."""
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for _, parameter, depth in network.rates():
        share = 1.0
        if depth is not None:
            share = settings.base_share * settings.block_decay**depth
        decay = settings.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((settings.learning_rate * share, decay), []).append(parameter)
    listed = [
        {"params": parameters, "lr": rate, "weight_decay": decay, _BASE_RATE: rate}
        for (rate, decay), parameters in groups.items()
    ]
    # What fuses its operations also unscales gradients by itself, too late for them to be clipped.
    fused = settings.precision != "16-mixed"
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(listed, fused=fused)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(listed, settings.learning_rate, momentum=_MOMENTUM, fused=fused)
    return torch.optim.RMSprop(listed)


def rate_factor(settings: FinetuneSettings, step: int, steps: int) -> float:
    """Return what the rates are multiplied by in a step, counted from 0, of so many."""
    rising = round(settings.warm_up * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    if settings.schedule == "constant":
        return 1.0
    return (1 + cos(pi * (step - rising) / max(1, steps - rising))) / 2


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the rate of each group to its own times a factor."""
    for group in optimizer.param_groups:
        group["lr"] = group[_BASE_RATE] * factor


def losses(link: str, scores: torch.Tensor, codes: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return losses of shape (n, 1), or (n, k) where each class is decided on its own.

    Parameters
    ----------
    link : str
        See `bottleneck.heads.scoring.link_of`.
    scores : torch.Tensor
        Shape (n, k), divided by the temperature.
    codes : torch.Tensor
        The class of each image, int64 of shape (n,), or bool of shape (n, k).
    smoothing : float
        Which share of each target is spread over the classes, or over yes and no.
    """
    if link == "softmax":
        found = functional.cross_entropy(scores, codes, reduction="none", label_smoothing=smoothing)
        return found[:, None]
    wanted = codes if codes.dim() > 1 else functional.one_hot(codes, scores.shape[1])
    shares = wanted.float() * (1 - smoothing) + smoothing / 2
    return functional.binary_cross_entropy_with_logits(scores, shares, reduction="none")
