"""The feature cache: HDF5 banks made of immutable parts. No torch in it.

The layout is described in ``cache/README.md``.
"""

from bottleneck.cache.banks import Bank, Cache
from bottleneck.cache.parts import PartWriter, store

__all__ = ["Bank", "Cache", "PartWriter", "store"]
