"""Plan what to compute, as plain data that can be divided and sent to other processes."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from bottleneck.arguments import made
from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import Bank, Cache, Shard
from bottleneck.errors import DataError
from bottleneck.extract.store import Target, targets_of_all
from bottleneck.images import ImageItem, ImageSet
from bottleneck.settings import StoreSettings

__all__ = [
    "Plan",
    "Task",
    "count_cached",
    "find_passes",
    "find_tasks",
    "images_of",
    "plan_extraction",
]


@dataclass(frozen=True)
class Task:
    """Some layers, and the images to compute them for.

    Attributes
    ----------
    layers : tuple of str
        In order of computation.
    items : tuple of ImageItem
        Distinct images.
    views : dict of str to tuple of int
        Views to compute of each image, by digest.
    """

    layers: tuple[str, ...]
    items: tuple[ImageItem, ...]
    views: dict[str, tuple[int, ...]]

    @property
    def rows(self) -> int:
        """Number of views."""
        return sum(map(len, self.views.values()))

    def only(self, digests: Container[str]) -> "Task":
        """Return the task restricted to some of the images.

        Parameters
        ----------
        digests : container of str
            SHA-256 of the images to keep.

        Returns
        -------
        Task
            The task with the same layers; without images if none is in `digests`.
        """
        items = tuple(item for item in self.items if item.digest in digests)
        return Task(self.layers, items, {item.digest: self.views[item.digest] for item in items})


@dataclass(frozen=True)
class Plan:
    """The features missing from the banks of unaugmented images, or of augmented views.

    Attributes
    ----------
    items : tuple of ImageItem
        All distinct images that must be in the banks.
    tasks : tuple of Task
        The work to do. Images that lack the same layers form one task; an image is in several tasks
        if its views lack different layers.
    """

    items: tuple[ImageItem, ...]
    tasks: tuple[Task, ...]

    @property
    def images(self) -> int:
        """Number of images to compute, over all tasks."""
        return sum(len(task.items) for task in self.tasks)

    @property
    def rows(self) -> int:
        """Number of views to compute."""
        return sum(task.rows for task in self.tasks)

    @property
    def lacking(self) -> set[str]:
        """Digests of the images with anything to compute."""
        return {digest for task in self.tasks for digest in task.views}

    def only(self, digests: Container[str]) -> "Plan":
        """Return the plan restricted to some of the images.

        Parameters
        ----------
        digests : container of str
            SHA-256 of the images to keep.

        Returns
        -------
        Plan
            The plan, without tasks that have no images left.
        """
        items = tuple(item for item in self.items if item.digest in digests)
        tasks = tuple(task.only(digests) for task in self.tasks)
        return Plan(items, tuple(task for task in tasks if task.items))

    def divided(self, count: int) -> list["Plan"]:
        """Divide the plan into several plans with about the same amount of work.

        Each image is in only one of them.

        Parameters
        ----------
        count : int
            Number of plans.

        Returns
        -------
        list of Plan
            `count` plans, of which some may be empty.
        """
        lacking = {digest: None for task in self.tasks for digest in task.views}
        digests = list(lacking | {item.digest: None for item in self.items})
        return [self.only(set(digests[start::count])) for start in range(count)]


def plan_extraction(images: ImageSet, targets: Sequence[Target]) -> list[Plan]:
    """Find what each target lacks of the unaugmented images, or of views of the training images.

    If the settings name a shard, only of its images.

    Parameters
    ----------
    images : ImageSet
        Images that must be in the banks.
    targets : sequence of Target
        The result of `find_targets`.

    Returns
    -------
    list of Plan
        A plan for each target.

    Raises
    ------
    DataError
        There are no training images to augment.
    CacheError
        A part cannot be read.
    """
    plans = []
    for target in targets:
        chosen = [item for item in images.items if not target.policy or item.split == "train"]
        if target.policy and not chosen:
            raise DataError(
                f"image set {images.name!r} has no train images, and only train images get "
                f"augmented views; add train images, or leave `views` out"
            )
        shard = Shard.of(target.settings.shard)
        distinct = {item.digest: item for item in chosen}.values()
        items = tuple(item for item in distinct if shard is None or shard.has(item.digest))
        plans.append(Plan(items, find_tasks(items, target.banks, target.views)))
    return plans


def find_passes(plans: Sequence[Plan], targets: Sequence[Target]) -> list[dict[int, Task]]:
    """Return the tasks of several bases that are computed together, so that images are read once.

    The first tasks of all plans are computed together, then the second ones, if there are any.
    Bases that keep proportions see images in the order of their sizes, so that those with another
    size are computed apart.

    Parameters
    ----------
    plans, targets : sequence of Plan, sequence of Target
        A plan for each target; one target for each base.

    Returns
    -------
    list of dict of int to Task
        For each pass over images, place of a plan to its task.
    """
    orders: dict[object, list[int]] = {}
    for place, target in enumerate(targets):
        transform = target.base.transform
        orders.setdefault(transform.keep_aspect and transform.resize, []).append(place)
    return [
        {place: task for place, task in zip(places, tasks, strict=True) if task}
        for places in orders.values()
        for tasks in zip_longest(*(plans[place].tasks for place in places))
    ]


def images_of(tasks: Sequence[Task]) -> list[ImageItem]:
    """Return the images of tasks that are computed together.

    Parameters
    ----------
    tasks : sequence of Task
        At least one.

    Returns
    -------
    list of ImageItem
        Each image once; those of the same tasks follow each other, so that batches are full.
    """
    found = {item.digest: item for task in tasks for item in task.items}
    return sorted(
        found.values(), key=lambda item: [item.digest not in task.views for task in tasks]
    )


def count_cached(
    images: ImageSet,
    bases: FrozenBase | Sequence[FrozenBase],
    cache: Cache,
    settings: StoreSettings | None = None,
    **options: Any,
) -> tuple[int, int]:
    """Return the number of distinct images for which the cache has everything.

    Parameters
    ----------
    images, bases, cache, settings, **options
        As for `extract_features`.

    Returns
    -------
    (int, int)
        The number of complete images, and of all distinct images.

    Raises
    ------
    UsageError, DataError, CacheError
        As for `extract_features`.
    """
    settings = made(StoreSettings, settings, options)
    targets = targets_of_all(bases, cache, settings, compare=False)
    plans = [plan for own in targets for plan in plan_extraction(images, own)]
    lacking = set[str]().union(*(plan.lacking for plan in plans))
    return len(plans[0].items) - len(lacking), len(plans[0].items)


def find_tasks(
    items: Iterable[ImageItem], banks: Mapping[str, Bank], views: Sequence[int]
) -> tuple[Task, ...]:
    """Return the tasks that fill gaps of banks, by layer, for these views of distinct images.

    Parameters
    ----------
    items : iterable of ImageItem
        Of several items with one digest, the last is used.
    banks : mapping of str to Bank
        Layer to its bank.
    views : sequence of int
        Views of every image; 0 is the unaugmented image.

    Returns
    -------
    tuple of Task
        Empty if nothing is missing.

    Raises
    ------
    CacheError
        A part cannot be read.
    """
    of_digest = {item.digest: item for item in items}
    digests = list(of_digest)
    groups: dict[tuple[str, ...], dict[str, tuple[int, ...]]] = {}
    for view in views:
        held = {layer: bank.holds(layer, digests, view=view) for layer, bank in banks.items()}
        for place, digest in enumerate(digests):
            lacking = tuple(layer for layer in banks if not held[layer][place])
            if lacking:
                own = groups.setdefault(lacking, {})
                own[digest] = (*own.get(digest, ()), view)
    return tuple(
        Task(layers, tuple(of_digest[digest] for digest in own), own)
        for layers, own in groups.items()
    )
