"""Fill banks: compute what they lack and store it, with one decoding of an image for all bases."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass, field

from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import Cache
from bottleneck.errors import CacheError, counted
from bottleneck.extract.compute import (
    Chunk,
    Progress,
    Remarks,
    Work,
    joint_batches,
    sorted_by_size,
)
from bottleneck.extract.plan import (
    Plan,
    Task,
    find_passes,
    find_tasks,
    images_of,
    plan_extraction,
)
from bottleneck.extract.store import Target, targets_of_all
from bottleneck.images import ImageSet
from bottleneck.settings import StoreSettings

__all__ = ["Filling", "Outcome", "Part", "carry_out", "fill_banks", "stored_chunks"]


@dataclass
class Outcome:
    """What was computed.

    Attributes
    ----------
    rows : int
        Number of views computed, unaugmented images included.
    bytes_written : int
        Size of the added features.
    seconds : float
        Time in which workers computed them.
    bad : dict of str to str
        Digest to reason, for images that could not be used.
    remarks : Remarks
        What users should know of the computed images.
    """

    rows: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    bad: dict[str, str] = field(default_factory=dict)
    remarks: Remarks = field(default_factory=Remarks)


@dataclass(frozen=True)
class Filling:
    """The result of computing and storing a base's missing features.

    Attributes
    ----------
    targets : list of Target
        The banks of unaugmented images and, if there are any, of views.
    missing : set of str
        Digests of the images whose unaugmented features were missing.
    outcomes : list of Outcome
        What was computed for each target.
    """

    targets: list[Target]
    missing: set[str]
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def bad(self) -> dict[str, str]:
        """Digest to reason, for images that could not be used."""
        return {digest: why for each in self.outcomes for digest, why in each.bad.items()}

    @property
    def bytes_written(self) -> int:
        """Size of the added features."""
        return sum(each.bytes_written for each in self.outcomes)

    @property
    def seconds(self) -> float:
        """Time in which workers computed them."""
        return sum(each.seconds for each in self.outcomes)

    @property
    def remarks(self) -> Remarks:
        """What users should know of the computed images."""
        found = Remarks()
        for each in self.outcomes:
            found.pages.update(each.remarks.pages)
            found.deep.update(each.remarks.deep)
        return found


@dataclass(frozen=True)
class Part:
    """A base's share of the images that are computed together.

    Attributes
    ----------
    task : Task
        Layers, and the views to compute of each image.
    target : Target
        The banks to store them in.
    outcome : Outcome
        Updated by what was computed.
    """

    task: Task
    target: Target
    outcome: Outcome = field(default_factory=Outcome)


def fill_banks(
    images: ImageSet,
    bases: FrozenBase | Sequence[FrozenBase],
    cache: Cache,
    settings: StoreSettings,
    *,
    progress: Progress | None = None,
) -> list[Filling]:
    """Compute and store missing features, without saving the image set or a record.

    Parameters
    ----------
    images, bases, cache, settings, progress
        As for `extract_features`.

    Returns
    -------
    list of Filling
        For each base its banks, what was computed, and the images that could not be used.

    Raises
    ------
    UsageError, MissingExtraError, DataError, CacheError, FeatureOverflowError
        As for `extract_features`.
    """
    targets = targets_of_all(bases, cache, settings)
    plans = [plan_extraction(images, own) for own in targets]
    if any(plan.tasks for own in plans for plan in own):
        cache.check_writable()
    found = [Filling(own, plan.lacking) for own, (plan, *_) in zip(targets, plans, strict=True)]
    for stage in range(len(targets[0])):  # of unaugmented images, then of views
        bad = {digest for each in found for digest in each.bad}
        outcomes = carry_out(
            [own[stage].only({item.digest for item in own[stage].items} - bad) for own in plans],
            [own[stage] for own in targets],
            progress,
        )
        for each, outcome in zip(found, outcomes, strict=True):
            each.outcomes.append(outcome)
    return found


def carry_out(
    plans: Sequence[Plan], targets: Sequence[Target], progress: Progress | None = None
) -> list[Outcome]:
    """Compute and store plans together, and check that everything is there at the end.

    Parameters
    ----------
    plans : sequence of Plan
        The features to compute, for each base.
    targets : sequence of Target
        The banks to store them in, for each base: all of unaugmented images, or all of views.
    progress : callable, optional
        Called with ``"extract"`` or ``"views"``, the number of images done and their total.

    Returns
    -------
    list of Outcome
        What was computed, for each base.

    Raises
    ------
    CacheError, FeatureOverflowError
        Features cannot be written, or disappeared meanwhile; what was committed is kept.
    """
    outcomes = [Outcome() for _ in plans]
    passes = [
        [Part(task, targets[place], outcomes[place]) for place, task in tasks.items()]
        for tasks in find_passes(plans, targets)
    ]
    stage, done = "views" if targets[0].policy else "extract", 0
    total = sum(len(images_of([part.task for part in parts])) for parts in passes)
    distinct = {item.digest for plan in plans for item in plan.items}
    cached = len(distinct.difference(*(plan.lacking for plan in plans)))

    def report() -> None:
        if progress:
            written = sum(each.bytes_written for each in outcomes)
            progress(stage, done, total, cached=cached, bytes_written=written)

    report()
    try:
        for parts in passes:
            with closing(stored_chunks(parts)) as chunks:
                for chunk in chunks:  # what was appended is committed, whatever ends the work
                    done += chunk.images
                    report()
    except BaseException:
        for target in targets:
            with suppress(CacheError):  # what stopped the work may be a full disk
                target.refresh()
        raise
    for plan, target, outcome in zip(plans, targets, outcomes, strict=True):
        _check_complete(plan, target, outcome.bad)
        with nullcontext() if plan.tasks else suppress(CacheError):  # it can only be read
            target.refresh()
    return outcomes


def stored_chunks(parts: Sequence[Part]) -> Generator[Chunk]:
    """Compute images together, and yield what was computed of some once it is appended.

    Parameters
    ----------
    parts : sequence of Part
        What to compute and where to store it, for at least one base; images are decoded as
        `bottleneck.extract.plan.find_passes` allows. Their outcomes are updated.

    Yields
    ------
    Chunk
        See `joint_batches`.

    Raises
    ------
    CacheError, FeatureOverflowError, MemoryShortError
        Features cannot be computed or written.
    """
    works = [
        Work(part.target.base.cut(part.task.layers), part.task.views, part.outcome.remarks)
        for part in parts
    ]
    settings, policy = parts[0].target.settings, parts[0].target.policy
    items = sorted_by_size(images_of([part.task for part in parts]), works[0].base.transform)
    chunks = joint_batches(works, items, batch_size=settings.batch_size, policy=policy)
    share = sum(len(part.target.by_bank(part.task.layers)) for part in parts)
    with closing(chunks), ExitStack() as stack:
        stores = [
            stack.enter_context(part.target.storing(part.task.layers, share=share))
            for part in parts
        ]
        for chunk in chunks:
            for part, append, batch in zip(parts, stores, chunk.batches, strict=True):
                append(batch)
                outcome, width = part.outcome, sum(map(part.target.row_bytes, part.task.layers))
                outcome.bad |= {item.digest: reason for item, reason in batch.rejected}
                outcome.rows += len(batch.items)
                outcome.bytes_written += len(batch.items) * width
                outcome.seconds += batch.seconds
            yield chunk


def _check_complete(plan: Plan, target: Target, bad: Mapping[str, str]) -> None:
    """Check that the banks contain and describe everything in a plan, except bad images."""
    target.describe(layer for layer, bank in target.banks.items() if bank.size)
    planned = plan.items if plan.tasks else ()  # else they have just been found
    tasks = find_tasks(planned, target.banks, target.views)
    gone = {digest for task in tasks for digest in task.views} - bad.keys()
    if gone:
        raise CacheError(
            f"{len(gone)} of {counted(len(plan.items), 'image')} disappeared from the cache during "
            f"extraction, as another command removed parts; run the command again"
        )
