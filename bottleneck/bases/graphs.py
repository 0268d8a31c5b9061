"""Networks that this process has traced already."""

from dataclasses import dataclass, field
from functools import lru_cache

from bottleneck.bases.models import Model
from bottleneck.bases.network import Network

__all__ = ["traced"]

_KEPT = 4
"""Networks that a process remembers."""


@dataclass(frozen=True)
class _Wanted:
    """What one network is told from another by: an architecture stands for one graph."""

    name: str
    architecture: str
    image_size: tuple[int, int]
    model: Model = field(compare=False)


def traced(model: Model, image_size: tuple[int, int] | None = None) -> Network:
    """Return a model's network, which this process may have traced before.

    Parameters
    ----------
    model, image_size
        As for `Network`, which see for the errors, too.
    """
    return _traced(
        _Wanted(model.name, model.architecture, image_size or model.transform.crop, model)
    )


@lru_cache(maxsize=_KEPT)
def _traced(wanted: _Wanted) -> Network:
    return Network(wanted.model, wanted.image_size)
