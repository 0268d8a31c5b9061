"""Records of shards: what one of several extractions has done of an image set."""

from dataclasses import dataclass, field
from typing import ClassVar

from bottleneck.records import record
from bottleneck.records.record import CacheRecord
from bottleneck.records.runs import Extraction

__all__ = ["ExtractedShard", "ShardRecord"]


@dataclass(frozen=True, kw_only=True)
class ShardRecord(CacheRecord):
    """The record of a shard, in ``cache/shards/`` until all shards are done.

    Attributes
    ----------
    image_set : str
        Name of the image set.
    shard, shards : int
        Number of the shard, from 1 on, and of all shards.
    time : str
        Time of the last change, in ISO format.
    done : bool
        Whether all of its images are in the cache, but the bad ones.
    bad : dict of str to str
        Digest to reason, for images that could not be used.
    """

    SCHEMA: ClassVar[int] = 1

    image_set: str
    shard: record.Size
    shards: record.Size
    time: record.Time
    done: bool = False
    bad: dict[record.Digest, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExtractedShard(Extraction):
    """The result of an extraction of one shard, while images of others are missing.

    Its counts are those of the shard. It is not saved: the last shard saves the record of all.

    Attributes
    ----------
    shard : str
        The shard, as ``I/N``.
    missing : list of int
        Number of distinct images that the cache lacks, for each shard.
    """

    shard: str
    missing: list[record.Count]
