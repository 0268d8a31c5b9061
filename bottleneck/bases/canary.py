"""The fixed images of a base's canary, and networks that give two results for them."""

from collections.abc import Callable

import numpy as np
import torch

from bottleneck.errors import UsageError

__all__ = ["canary_images", "computed_alike", "sampled"]

_SAMPLES = 32
_TOLERANCE = 0.005
"""Largest difference that kernels may make, as a share of the largest value of a layer."""


def computed_alike(
    name: str,
    compute: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    images: torch.Tensor,
    *,
    own: bool,
) -> dict[str, torch.Tensor]:
    """Compute some images, twice if the network may give two results.

    Operations of a graph do so only if they draw random numbers, which changes PyTorch's state; a
    network's own code may do it in any way.

    Parameters
    ----------
    name : str
        The network's name, for the message.
    compute : callable
        Takes images and returns layer to activations.
    images : torch.Tensor
        A batch of them.
    own : bool
        Whether the network's own code is run, in place of a graph.

    Returns
    -------
    dict of str to torch.Tensor
        The first result.

    Raises
    ------
    UsageError
        The second result is another.
    """
    before = _states()
    found = compute(images)
    if not own and all(map(torch.equal, before, _states())):
        return found
    for layer, values in compute(images).items():
        gap = float((values - found[layer]).abs().max() / found[layer].abs().max().clamp_min(1e-12))
        if gap > _TOLERANCE:
            raise UsageError(
                f"{name} gives two results for the same images, {gap:.2g} of the largest value "
                f"apart at layer {layer!r}, because it draws random numbers in evaluation mode, "
                f"too; choose an earlier layer or another model"
            )
    return found


def _states() -> list[torch.Tensor]:
    """Return the states of PyTorch's generators of random numbers."""
    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    others = torch.cuda.get_rng_state_all() if on_gpu else []
    return [torch.get_rng_state(), *others]


def canary_images() -> list[np.ndarray]:
    """Return three synthetic images.

    Returns
    -------
    list of np.ndarray
        uint8 of shape (256, 256, 3).
    """
    side = 256
    y, x = np.mgrid[:side, :side]
    patterns = [
        [x, y, (x + y) // 2],
        [x * y // 7, x * x // 5, y * y // 3],
        [(x // 16 + y // 16) % 2 * 255, x // 32 * 32, 255 - y],
    ]
    return [np.stack(channels, axis=-1).astype(np.uint8) for channels in patterns]


def sampled(values: np.ndarray) -> list[float]:
    """Return the root mean square of values, then up to 32 of them at equal distances.

    Parameters
    ----------
    values : np.ndarray
        Shape (n,).

    Returns
    -------
    list of float
    """
    places = np.linspace(0, len(values) - 1, min(_SAMPLES, len(values))).round().astype(int)
    magnitude = float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))
    return [magnitude, *map(float, values[places])]
