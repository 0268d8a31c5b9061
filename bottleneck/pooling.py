"""Pool the map or the tokens of an image to one vector, for NumPy arrays and tensors."""

import sys
from typing import Any, TypeVar, get_args

from bottleneck.errors import UnknownNameError, UsageError, did_you_mean
from bottleneck.settings.values import Pool

__all__ = ["POOLS", "check_pool", "pool", "pooled_shape"]

POOLS = get_args(Pool)
_GEM_POWER = 3.0
_GEM_FLOOR = 1e-6
_PYRAMID = (1, 2, 4)
_PATCHES = len("TC")

Array = TypeVar("Array")


def check_pool(how: str, axes: str, layer: str, *, attends: bool = False) -> None:
    """Raise an error if a layer does not support a pooling.

    Parameters
    ----------
    how : str
        One of `POOLS`.
    axes : str
        Axes of the layer, see `pool`.
    layer : str
        Name of the layer, for the message.
    attends : bool
        Whether the network's own attention pooling is at hand, which ``map`` means.

    Raises
    ------
    UnknownNameError
        The pooling does not exist.
    UsageError
        The layer does not support the pooling.
    """
    if how not in POOLS:
        raise UnknownNameError(
            f"no pooling {how!r}; expected one of {', '.join(POOLS)}{did_you_mean(how, POOLS)}"
        )
    possible = ["none", "avg", "max", "gem"] if len(axes) > 1 else ["none"]
    possible += ["spp"] if axes in {"CHW", "HWC"} else ["cls", "cls+avg"] if "+" in axes else []
    possible += ["map"] if attends and len(axes) > 1 else []
    if how == "map" and not attends and axes != "C":
        raise UsageError(
            f"layer {layer!r} is stored as it is, and only 'bottleneck extract --pool map' can "
            f"pool it by the network's own attention pooling; expected `pool` as one of "
            f"{', '.join(possible)}"
        )
    if how not in possible and axes != "C":
        raise UsageError(
            f"layer {layer!r} cannot be pooled by {how!r}; expected one of {', '.join(possible)}: "
            f"choose another `pool` or `layer`"
        )


def pool(features: Array, how: str, axes: str) -> Array:
    """Pool the activations of n images.

    Parameters
    ----------
    features : np.ndarray or torch.Tensor
        Floating point, of shape (n, ...).
    how : str
        - ``none``: unchanged.
        - ``avg``, ``max``: over the positions of a map, or over the patch tokens.
        - ``gem``: generalised mean with power 3 (Radenovic et al. 2018, Fine-tuning CNN Image
          Retrieval with No Human Annotation, section 3.3); activations below 1e-6 count as 1e-6.
        - ``spp``: the maxima over 1 x 1, 2 x 2 and 4 x 4 bins of a map, one after the other, C
          values each: 21 C in all (He et al. 2014, Spatial Pyramid Pooling in Deep Convolutional
          Networks for Visual Recognition, section 2.2).
        - ``cls``: the class token.
        - ``cls+avg``: the class token, then the mean of the patch tokens: 2 C values (Caron et al.
          2021, Emerging Properties in Self-Supervised Vision Transformers, section F.2).
        - ``map`` is computed by `bottleneck.bases.attending`, not here.
    axes : str
        The axes after n: ``CHW`` or ``HWC`` for a map, ``TC`` for patch tokens, ``1+TC`` for one
        class token before them (``2+TC``: two tokens before them, of which the first is the class
        token), ``4-TC`` for four tokens before them without a class token, ``C`` for a vector,
        which is never changed.

    Returns
    -------
    np.ndarray or torch.Tensor
        Of shape (n, C), or (n, 21 C) for ``spp``, or (n, 2 C) for ``cls+avg``.
    """
    if how == "none" or axes == "C":
        return features
    # What follows is called alike; tensors that torch traces with are of modules of their own.
    xp = sys.modules["numpy" if type(features).__module__ == "numpy" else "torch"]
    if how == "cls+avg":
        both = [pool(features, each, axes) for each in how.split("+")]
        return xp.concatenate(both, 1)  # type: ignore[no-any-return]
    return _pooled(xp, features, how, axes)  # type: ignore[no-any-return]


def _pooled(xp: Any, features: Any, how: str, axes: str) -> Any:
    extra, kind = axes[:-_PATCHES], axes[-_PATCHES:]
    values = features
    if how == "cls":
        return values[:, 0]
    if kind == "TC":
        values = values[:, int(extra[:-1] or 0) :]
    if axes != "CHW":
        values = xp.moveaxis(values, -1, 1)
    positions = tuple(range(2, values.ndim))
    if how == "avg":
        return xp.mean(values, positions)
    if how == "max":
        return xp.amax(values, positions)
    if how == "gem":
        powers = xp.clip(values, _GEM_FLOOR, None) ** _GEM_POWER
        return xp.mean(powers, positions) ** (1 / _GEM_POWER)
    bins = [
        xp.amax(values[:, :, top:bottom, left:right], (2, 3))
        for count in _PYRAMID
        for top, bottom in _bins(values.shape[2], count)
        for left, right in _bins(values.shape[3], count)
    ]
    return xp.concatenate(bins, 1)


def pooled_shape(shape: tuple[int, ...], how: str, axes: str) -> tuple[int, ...]:
    """Return the shape of one image's pooled activation.

    Parameters
    ----------
    shape : tuple of int
        Shape of one image's unpooled activation.
    how : str
        One of `POOLS`.
    axes : str
        As `pool` takes them.

    Returns
    -------
    tuple of int
    """
    if how == "none" or axes == "C":
        return shape
    channels = shape[0] if axes == "CHW" else shape[-1]
    vectors = {"spp": sum(count**2 for count in _PYRAMID), "cls+avg": 2}
    return (channels * vectors.get(how, 1),)


def _bins(size: int, count: int) -> list[tuple[int, int]]:
    """Return the start and end of each bin; bins overlap by one if the size is not divisible."""
    return [(place * size // count, -(-(place + 1) * size // count)) for place in range(count)]
