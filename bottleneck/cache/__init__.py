"""The feature cache: HDF5 banks made of immutable parts; does not import torch.

The layout is described in ``cache/README.md``.
"""

from bottleneck.cache.banks import Bank
from bottleneck.cache.folder import Cache, bank_name
from bottleneck.cache.hdf5 import dataset_of, open_hdf5
from bottleneck.cache.layout import (
    COMPRESSIONS,
    Dataset,
    compression_options,
    hdf5_pieces,
    part_size,
)
from bottleneck.cache.leases import EVERYONE, Leases
from bottleneck.cache.pruning import find_prunable, prune
from bottleneck.cache.shards import Shard
from bottleneck.cache.upkeep import compact_bank, drop_layer
from bottleneck.cache.verify import Damage, Verification, set_aside, verify_cache
from bottleneck.cache.writer import PART_BYTES, PART_SECONDS, PartWriter, store

__all__ = [
    "COMPRESSIONS",
    "EVERYONE",
    "PART_BYTES",
    "PART_SECONDS",
    "Bank",
    "Cache",
    "Damage",
    "Dataset",
    "Leases",
    "PartWriter",
    "Shard",
    "Verification",
    "bank_name",
    "compact_bank",
    "compression_options",
    "dataset_of",
    "drop_layer",
    "find_prunable",
    "hdf5_pieces",
    "open_hdf5",
    "part_size",
    "prune",
    "set_aside",
    "store",
    "verify_cache",
]
