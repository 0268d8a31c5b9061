"""The extraction of an image set in shards: begun and ended by each, completed by the last."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Self

from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import Cache, Shard
from bottleneck.cache.shards import ShardFiles, shard_files
from bottleneck.extract.plan import plan_extraction
from bottleneck.extract.store import targets_of_all
from bottleneck.images import ImageSet
from bottleneck.records import RejectedImage, ShardRecord
from bottleneck.settings import StoreSettings

__all__ = ["ShardJob"]

_KEY_DIGITS = 12


@dataclass(frozen=True)
class ShardJob:
    """The extraction of an image set with some bases, of which a shard may be one's own.

    Attributes
    ----------
    images : ImageSet
        All images.
    bases : sequence of FrozenBase
        The bases.
    cache : Cache
        The cache.
    settings : StoreSettings
        What is stored, and the shard.
    files : ShardFiles
        What the shards tell of themselves.
    shard : Shard or None
        The own one; None if it is done once more after the last one has completed the extraction.
    """

    images: ImageSet
    bases: Sequence[FrozenBase]
    cache: Cache
    settings: StoreSettings
    files: ShardFiles
    shard: Shard | None

    @classmethod
    def of(
        cls,
        images: ImageSet,
        bases: Sequence[FrozenBase],
        cache: Cache,
        settings: StoreSettings,
    ) -> Self | None:
        """Return the job of an extraction.

        Parameters
        ----------
        images, bases, cache, settings
            As for `bottleneck.extract.extract_features`.

        Returns
        -------
        ShardJob or None
            None if no shard is given and the cache has none.

        Raises
        ------
        UsageError
            ``shard=auto``, and the environment names no shard.
        UnknownNameError, PathMissingError, MissingExtraError, CacheError
            As for `bottleneck.extract.store.find_targets`.
        """
        shard = Shard.of(settings.shard)
        if not shard and not shard_files(cache):
            return None
        whole = replace(settings, shard=None)
        targets = targets_of_all(bases, cache, whole, compare=False)
        banks = [bank.name for own in targets for each in own for bank in each.banks.values()]
        facts = repr((images.digest_of(), sorted(banks), settings.views))
        key = hashlib.sha256(facts.encode()).hexdigest()[:_KEY_DIGITS]
        files = ShardFiles(cache, f"{images.name}-{key}")
        job = cls(images, bases, cache, whole, files, shard)
        return replace(job, shard=None) if shard and job._was_completed() else job

    def _was_completed(self) -> bool:
        """Return whether what is missing, in any shard, could not be used when all were done."""
        if self.files.paths():
            return False
        lacking = self._lacking()
        paths = {item.path for item in self.images.items if item.digest in lacking}
        return any(
            run.image_set == self.images.name and paths <= {each.path for each in run.rejected}
            for run in self.cache.runs(damaged_too=False)
        )

    def note(self, bad: Mapping[str, str], *, done: bool) -> None:
        """Tell the other shards of the own one.

        Parameters
        ----------
        bad : mapping of str to str
            Digest to reason, for its images that could not be used.
        done : bool
            Whether all others are in the cache.

        Raises
        ------
        UsageError, CacheError
            As for `ShardFiles.write`.
        """
        if self.shard:
            now = datetime.now(UTC).isoformat()
            record = ShardRecord(
                image_set=self.images.name,
                shard=self.shard.number,
                shards=self.shard.count,
                time=now,
                done=done,
                bad=dict(bad),
            )
            self.files.write(record)

    def bad(self) -> dict[str, str]:
        """Return the images that shards could not use, with their reasons."""
        return {digest: why for each in self.files.records() for digest, why in each.bad.items()}

    def missing(self) -> list[int]:
        """Return the number of distinct images that the cache lacks, for each shard.

        Returns
        -------
        list of int
            Images that could not be used do not count. Empty if the images are in no shards.

        Raises
        ------
        DataError, CacheError
            As for `plan_extraction`.
        """
        count = self.shard.count if self.shard else self.files.count
        if not count:
            return []
        found = [0] * count
        for digest in self._lacking() - self.bad().keys():
            found[Shard.number_of(digest, count) - 1] += 1
        return found

    def _lacking(self) -> set[str]:
        """Return the images of which the cache lacks anything."""
        targets = targets_of_all(self.bases, self.cache, self.settings, compare=False)
        plans = [plan for own in targets for plan in plan_extraction(self.images, own)]
        return set[str]().union(*(plan.lacking for plan in plans))

    def own_images(self, bad: Mapping[str, str]) -> ImageSet:
        """Return the images of the own shard, without bad ones, in the splits of all.

        Parameters
        ----------
        bad : mapping of str to str
            Digest to reason.

        Returns
        -------
        ImageSet
        """
        own = [item for item in self.images.items if self.shard and self.shard.has(item.digest)]
        rejected = [RejectedImage(i.path, bad[i.digest]) for i in own if i.digest in bad]
        items = tuple(item for item in own if item.digest not in bad)
        return replace(self.images, items=items, rejected=(*self.images.rejected, *rejected))
