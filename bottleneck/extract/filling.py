"""Fill banks: compute what they lack and store it, with one decoding of an image for all bases."""

from collections.abc import Container, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, field

from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import EVERYONE, Cache, Leases, Shard
from bottleneck.errors import CacheError, counted
from bottleneck.extract.compute import Progress, Remarks
from bottleneck.extract.division import Division
from bottleneck.extract.outcomes import Outcome, Part
from bottleneck.extract.passes import Engine, ordered_images
from bottleneck.extract.plan import (
    Plan,
    find_passes,
    find_tasks,
    images_of,
    plan_extraction,
)
from bottleneck.extract.store import Target, targets_of_all
from bottleneck.images import ImageSet
from bottleneck.settings import StoreSettings

__all__ = ["Filling", "carry_out", "fill_banks"]


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
    def computed(self) -> set[str]:
        """Digests of the images whose unaugmented features were computed here, or are bad."""
        return self.missing - self.outcomes[0].elsewhere

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


def fill_banks(
    images: ImageSet,
    bases: FrozenBase | Sequence[FrozenBase],
    cache: Cache,
    settings: StoreSettings,
    *,
    progress: Progress | None = None,
) -> list[Filling]:
    """Compute and store missing features, without saving the image set or a record.

    Other processes that fill the same banks at the same time compute some of the images, see
    `bottleneck.extract.division`; at the end, the banks have all of them.

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
    engine = _engine(images, cache, settings)  # refuses what it can before any work
    targets = targets_of_all(bases, cache, settings)
    plans = [plan_extraction(images, own) for own in targets]
    if any(plan.tasks for own in plans for plan in own):
        cache.check_writable()
    found = [Filling(own, plan.lacking) for own, (plan, *_) in zip(targets, plans, strict=True)]
    shard = Shard.of(settings.shard)
    with Leases(cache.root, shard.scope if shard else EVERYONE) as leases, engine as chosen:
        for stage in range(len(targets[0])):  # of unaugmented images, then of views
            bad = {digest for each in found for digest in each.bad}
            good = [own[stage].only({i.digest for i in own[stage].items} - bad) for own in plans]
            outcomes = carry_out(good, [own[stage] for own in targets], progress, leases, chosen)
            for each, outcome in zip(found, outcomes, strict=True):
                each.outcomes.append(outcome)
    return found


def _engine(
    images: ImageSet, cache: Cache, settings: StoreSettings
) -> AbstractContextManager[Engine]:
    """Return what computes the images, which is begun when it is entered."""
    if settings.engine == "local":
        return nullcontext(Engine())
    from bottleneck.extract.on_ray import RayEngine

    return RayEngine(images, cache, settings)


def carry_out(
    plans: Sequence[Plan],
    targets: Sequence[Target],
    progress: Progress | None = None,
    leases: Leases | None = None,
    engine: Engine | None = None,
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
    leases : Leases, optional
        Divides the images with other processes that have leases in the cache. Without it, all are
        computed here.
    engine : Engine, optional
        Computes them; by default in this process.

    Returns
    -------
    list of Outcome
        What was computed, for each base.

    Raises
    ------
    CacheError, FeatureOverflowError
        Features cannot be written, or disappeared meanwhile; what was committed is kept.
    """
    outcomes, engine = [Outcome() for _ in plans], engine or Engine()
    count = _Count(plans, targets, outcomes, progress)
    left = list(plans)
    try:
        while any(plan.tasks for plan in left):
            partial = set[str]()
            for tasks in find_passes(left, targets):
                parts = [Part(task, targets[at], outcomes[at]) for at, task in tasks.items()]
                partial |= _run_pass(parts, leases, count, engine)
            done = zip(left, targets, outcomes, strict=True)
            left = [_left_of(plan, target, outcome.bad, partial) for plan, target, outcome in done]
            count.note_left(left, targets)
    except BaseException:
        for target in targets:
            with suppress(CacheError):  # what stopped the work may be a full disk
                target.refresh()
        raise
    for plan, target in zip(plans, targets, strict=True):
        target.describe(layer for layer, bank in target.banks.items() if bank.size)
        with nullcontext() if plan.tasks else suppress(CacheError):  # it can only be read
            target.refresh()
    return outcomes


class _Count:
    """Counts images, and reports how many are done."""

    def __init__(
        self,
        plans: Sequence[Plan],
        targets: Sequence[Target],
        outcomes: Sequence[Outcome],
        progress: Progress | None,
    ) -> None:
        self._outcomes, self._progress, self.done, self._told = outcomes, progress, 0, -1
        self._stage = "views" if targets[0].policy else "extract"
        self._total = _images_in(plans, targets)
        distinct = {item.digest for plan in plans for item in plan.items}
        self._cached = len(distinct.difference(*(plan.lacking for plan in plans)))
        self.report()

    def note_left(self, left: Sequence[Plan], targets: Sequence[Target]) -> None:
        """Note what is left of the plans, once it has been looked for."""
        self.done = self._total - _images_in(left, targets)
        self.report()

    def report(self) -> None:
        """Report how many images are done, unless that is what was reported last."""
        done = min(self.done, self._total)
        if self._progress and done != self._told:
            self._told = done
            written = sum(each.bytes_written for each in self._outcomes)
            self._progress(
                self._stage, done, self._total, cached=self._cached, bytes_written=written
            )


def _images_in(plans: Sequence[Plan], targets: Sequence[Target]) -> int:
    """Return the number of images of all passes."""
    return sum(len(images_of([*tasks.values()])) for tasks in find_passes(plans, targets))


def _run_pass(
    parts: Sequence[Part], leases: Leases | None, count: _Count, engine: Engine
) -> set[str]:
    """Compute images together; return those of which some rows may be left to compute."""
    items = ordered_images(parts)
    if leases is None:
        with closing(engine.chunks(parts, items)) as chunks:
            for chunk in chunks:  # what was appended is committed, whatever ends the work
                count.done += chunk.images
                count.report()
        return engine.lost
    before = count.done

    def report() -> None:
        count.done = before + division.computed + division.elsewhere
        count.report()

    division = Division(leases, parts, items, report, at_once=engine.at_once)
    while division.ready():
        with closing(engine.chunks(parts, items, division.claimed())) as chunks:
            for chunk in chunks:
                division.computed += chunk.images
                report()
    report()
    return division.left | engine.lost


def _left_of(plan: Plan, target: Target, bad: Container[str], partial: Container[str]) -> Plan:
    """Return what the banks lack of a plan: images of which others did some rows only, or none."""
    planned = plan.items if plan.tasks else ()  # else they have just been found
    tasks = find_tasks(planned, target.banks, target.views)
    lacking = {digest for task in tasks for digest in task.views if digest not in bad}
    gone = sum(digest not in partial for digest in lacking)
    if gone:
        raise CacheError(
            f"{gone} of {counted(len(plan.items), 'image')} disappeared from the cache during "
            f"extraction, as another command removed parts; run the command again"
        )
    return Plan(plan.items, tasks).only(lacking)
