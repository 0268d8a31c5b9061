"""MixUp and CutMix: training on mixtures of two images of a batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.transforms import v2

from bottleneck.augment.pipelines import Seeded
from bottleneck.bases.network import Network
from bottleneck.bases.splitting import Split
from bottleneck.errors import UsageError
from bottleneck.settings import FinetuneSettings

__all__ = ["Parts", "check_mix", "mixed"]

Parts = list[tuple[torch.Tensor | float, np.ndarray]]
"""Shares of the images of a mixture, of shape (n,), with the images; the largest shares first."""

_MAPS = "CHW"
_ALPHAS = {"mixup": 0.2, "cutmix": 1.0}
"""By default, as in the papers on ImageNet."""


def check_mix(settings: FinetuneSettings, network: Network, split: Split) -> None:
    """Check that the inputs of the trained part can be mixed.

    Parameters
    ----------
    settings : FinetuneSettings
        Their `mix`.
    network : Network
        The network.
    split : Split
        What is trained.

    Raises
    ------
    UsageError
        CutMix needs maps, and the activations of the boundary are none.
    """
    axes = _MAPS if split.boundary is None else network.layers[split.boundary].axes
    if settings.mix == "cutmix" and axes != _MAPS:
        raise UsageError(
            f"`mix=cutmix` cuts rectangles out of maps (channels, rows, columns), and "
            f"{split.boundary!r}, which is the input of what is trained, has none; give "
            f"`mix=mixup`, or another `unfreeze`"
        )


def mixed(
    activations: torch.Tensor, rows: np.ndarray, settings: FinetuneSettings, seed: Sequence[int]
) -> tuple[torch.Tensor, Parts]:
    """Mix each image of a batch with another one.

    MixUp: Zhang et al. 2018, mixup: Beyond Empirical Risk Minimization; of activations: Verma et
    al. 2019, Manifold Mixup. CutMix: Yun et al. 2019, CutMix: Regularization Strategy to Train
    Strong Classifiers with Localizable Features. The loss of a mixture is the mean of the losses
    for its two images' labels, weighted by their shares, which is the loss for the mixed labels
    because all our losses are linear in them.

    Parameters
    ----------
    activations : torch.Tensor
        Inputs of the trained part, float32 of shape (n, ...); (n, c, h, w) for CutMix.
    rows : np.ndarray
        Indices of the images, int of shape (n,).
    settings : FinetuneSettings
        Their `mix` and `mix_alpha`.
    seed : sequence of int
        Seed of the draws; torch's global generator is not used.

    Returns
    -------
    mixtures : torch.Tensor
        The same shape; the activations themselves if `mix` is ``none``.
    parts : list of (share, rows)
        Shares of shape (n,) on the same device, and indices of shape (n,).
    """
    if settings.mix == "none":
        return activations, [(1.0, rows)]
    kind = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[settings.mix]
    maps = activations if activations.dim() > 3 else activations.flatten(1)[..., None, None]  # noqa: PLR2004 - images, channels, rows, columns
    with Seeded(int(np.random.SeedSequence(seed).generate_state(1)[0])):
        mixer = kind(alpha=settings.mix_alpha or _ALPHAS[settings.mix])
        mixtures, shares = mixer(maps, torch.eye(len(rows)))
    own = shares.diagonal()  # the label of each image is its place, so this is what is left of it
    others = rows[(shares - own.diag()).argmax(dim=1).numpy()]
    larger = own.numpy() >= 0.5  # noqa: PLR2004 - a half
    share = torch.maximum(own, 1 - own).to(activations.device)
    return mixtures.reshape(activations.shape), [
        (share, np.where(larger, rows, others)),
        (1 - share, np.where(larger, others, rows)),
    ]
