"""The feature cache: HDF5 banks made of immutable parts. No torch in it.

The layout is described in ``cache/README.md``.
"""

from bottleneck.cache.banks import Bank, Cache
from bottleneck.cache.parts import PART_BYTES, PART_SECONDS, PartWriter, part_sizes, store

__all__ = ["PART_BYTES", "PART_SECONDS", "Bank", "Cache", "PartWriter", "part_sizes", "store"]
