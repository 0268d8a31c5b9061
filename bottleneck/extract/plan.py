"""Plan what to compute, as plain data that can be divided and sent to other processes."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bottleneck.arguments import made
from bottleneck.augment import Policy, find_policy
from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import Bank, Cache
from bottleneck.errors import DataError
from bottleneck.images import ImageItem, ImageSet
from bottleneck.settings import StoreSettings

__all__ = [
    "Plan",
    "Target",
    "Task",
    "count_cached",
    "find_targets",
    "find_tasks",
    "plan_extraction",
]


@dataclass(frozen=True)
class _Storage:
    """How a base's layers are stored.

    Attributes
    ----------
    dtype : str
        Data type of stored features.
    policy : Policy or None
        Augmentation policy of the stored views; None for unaugmented images.
    """

    dtype: str
    policy: Policy | None

    @property
    def augmentation(self) -> dict[str, Any] | None:
        """The part of the policy that enters fingerprints."""
        return self.policy.as_dict() if self.policy else None

    def fingerprint(self, base: FrozenBase, layer: str) -> str:
        """Return the fingerprint of a base's layer."""
        return base.fingerprint(layer, self.dtype, self.augmentation)


@dataclass(frozen=True)
class Target(_Storage):
    """The banks of a base's features.

    Attributes
    ----------
    banks : mapping of str to Bank
        Layer to its bank.
    """

    banks: Mapping[str, Bank]

    def by_bank(self, layers: Iterable[str]) -> dict[str, list[str]]:
        """Return the names of the banks of some layers, with the layers of each.

        Parameters
        ----------
        layers : iterable of str
            Keys of `banks`.

        Returns
        -------
        dict of str to list of str
            Name of a bank to its layers.

        Raises
        ------
        KeyError
            A layer has no bank in this target.
        """
        found: dict[str, list[str]] = {}
        for layer in layers:
            found.setdefault(self.banks[layer].name, []).append(layer)
        return found


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
class Plan(_Storage):
    """The features missing from the banks of unaugmented images, or of augmented views.

    Attributes
    ----------
    banks : dict of str to str
        Layer to the name of its bank.
    items : tuple of ImageItem
        All distinct images that must be in the banks.
    views : tuple of int
        Views of each image that must be in the banks.
    tasks : tuple of Task
        The work to do. Images that lack the same layers form one task; an image is in several tasks
        if its views lack different layers.
    """

    banks: dict[str, str]
    items: tuple[ImageItem, ...]
    views: tuple[int, ...]
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
        return replace(self, items=items, tasks=tuple(task for task in tasks if task.items))

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


def find_targets(base: FrozenBase, cache: Cache, settings: StoreSettings) -> list[Target]:
    """Return the targets of a base: for unaugmented images and, if there are any, for views.

    Parameters
    ----------
    base : FrozenBase
        The base.
    cache : Cache
        The cache of the banks, which need not exist yet.
    settings : StoreSettings
        Data type, augmentation and number of views.

    Returns
    -------
    list of Target
        One or two targets.

    Raises
    ------
    UnknownNameError, PathMissingError, UsageError
        The augmentation is invalid, see `bottleneck.augment.find_policy`.
    """
    viewed = [find_policy(settings.augment)] if settings.views and settings.augment else []
    targets = []
    for policy in (None, *viewed):
        target = Target(settings.dtype, policy, {})
        names = {layer: target.fingerprint(base, layer) for layer in base.layers}
        banks = {layer: cache.bank(base.model, name) for layer, name in names.items()}
        targets.append(replace(target, banks=banks))
    return targets


def plan_extraction(images: ImageSet, targets: Sequence[Target], views: int = 0) -> list[Plan]:
    """Find what each target lacks of the unaugmented images, or of views of the training images.

    Parameters
    ----------
    images : ImageSet
        Images that must be in the banks.
    targets : sequence of Target
        The result of `find_targets`.
    views : int
        Number of augmented views of each training image.

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
        policy = target.policy
        chosen = [item for item in images.items if policy is None or item.split == "train"]
        if policy and not chosen:
            raise DataError(
                f"image set {images.name!r} has no train images, and only train images get "
                f"augmented views; add train images, or leave `views` out"
            )
        items = tuple({item.digest: item for item in chosen}.values())
        wanted = tuple(range(1, views + 1)) if policy else (0,)
        names = {layer: bank.name for layer, bank in target.banks.items()}
        tasks = find_tasks(items, target.banks, wanted)
        plans.append(Plan(target.dtype, policy, names, items, wanted, tasks))
    return plans


def count_cached(
    images: ImageSet,
    base: FrozenBase,
    cache: Cache,
    settings: StoreSettings | None = None,
    **options: Any,
) -> tuple[int, int]:
    """Return the number of distinct images for which the cache has everything.

    Parameters
    ----------
    images, base, cache, settings, **options
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
    plans = plan_extraction(images, find_targets(base, cache, settings), settings.views)
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
