"""What there is to do: banks, what they lack, and whether they hold what the base computes."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from bottleneck.augment import Policy
from bottleneck.bases import Transform
from bottleneck.cache import Bank, Cache
from bottleneck.errors import CacheError
from bottleneck.extract.pixels import augment_image
from bottleneck.images import ImageItem, ImageSet, in_threads, read_size

if TYPE_CHECKING:
    from bottleneck.bases.frozen import FrozenBase

__all__ = [
    "Canary",
    "Target",
    "Task",
    "count_cached",
    "describe_layers",
    "find_target",
    "find_task",
    "missing_views",
    "training_items",
]

Canary = Mapping[str, Sequence[Sequence[float]]]
"""Layer to the reference features of three images, as `FrozenBase.canary` gives them."""

_PACKAGES = ("torch", "torchvision", "timm", "h5py", "numpy", "pillow", "simplejpeg")


@dataclass(frozen=True)
class Target:
    """Where a base's layers are stored, and what must be there.

    Attributes
    ----------
    banks : dict of str to Bank
        Layer to where it is stored.
    dtype : str
        The type in which it is stored.
    canary : dict
        Of all layers.
    policy : Policy or None
        How the views that are stored there are made; None for plain images.
    """

    banks: Mapping[str, Bank]
    dtype: str
    canary: Canary
    policy: Policy | None

    @property
    def augmentation(self) -> dict[str, Any] | None:
        """What of the policy goes into fingerprints."""
        return self.policy.as_dict() if self.policy else None


@dataclass(frozen=True)
class Task:
    """What there is to do.

    Attributes
    ----------
    target : Target
        Where it is stored.
    items, wanted : sequence of ImageItem, sequence of int
        The images that shall be there, and the views of each.
    missing : dict of tuple of str to list of ImageItem
        The images to compute, once each, grouped by the layers that they lack.
    views : dict of tuple of str to dict
        For each group, digest to the views that are missing.
    """

    target: Target
    items: Sequence[ImageItem]
    wanted: Sequence[int]
    missing: dict[tuple[str, ...], list[ImageItem]]
    views: dict[tuple[str, ...], dict[str, list[int]]]

    @property
    def images(self) -> int:
        """How many images there are to compute; one stands in several groups if its views do."""
        return sum(map(len, self.missing.values()))

    @property
    def found(self) -> int:
        """How many different images there are nothing to compute of."""
        lacking = {digest for views in self.views.values() for digest in views}
        return len({item.digest for item in self.items} - lacking)

    def rows(self, layers: tuple[str, ...]) -> int:
        """Return how many views a group has."""
        return sum(map(len, self.views[layers].values()))


def find_target(
    base: "FrozenBase", cache: Cache, dtype: str, policy: Policy | None = None
) -> Target:
    """Find a base's banks; raise `CacheError` where one holds what the base does not compute."""
    target = Target(_banks(base, cache, dtype, policy), dtype, _canary(base, policy), policy)
    for layer, bank in target.banks.items():
        known = base.fingerprint(layer, dtype, target.augmentation)
        if bank.exists and bank.info["fingerprint"] != known:
            raise CacheError(
                f"bank {bank.name} has another fingerprint than its name says; move it away"
            )
        if bank.describes(layer):
            bank.check_canary(layer, target.canary[layer])
    return target


def _canary(base: "FrozenBase", policy: Policy | None) -> Canary:
    """Return the reference features of the three images, or of the first view of each."""
    if policy is None:
        return base.canary()
    return base.canary(lambda image: augment_image(base.transform, image, policy, "", 1))


def find_task(
    images: ImageSet,
    base: "FrozenBase",
    cache: Cache,
    dtype: str,
    *,
    views: int = 0,
    policy: Policy | None = None,
) -> Task:
    """Find what the cache lacks of the plain images, or, with a policy, of so many views.

    Only training images have views.

    Raises
    ------
    CacheError
        A bank holds what the base does not compute, or a part cannot be read.
    """
    target = find_target(base, cache, dtype, policy)
    wanted: Sequence[int] = (0,) if policy is None else range(1, views + 1)
    items = images.items if policy is None else training_items(images)
    lacking = missing_views(items, target.banks, wanted)
    of_digest = {item.digest: item for item in items}
    missing = {layers: [of_digest[digest] for digest in own] for layers, own in lacking.items()}
    if base.transform.keep_aspect:
        missing = {layers: _by_size(own, base.transform) for layers, own in missing.items()}
    return Task(target, items, wanted, missing, lacking)


def _by_size(items: Sequence[ImageItem], transform: Transform) -> list[ImageItem]:
    """Return images with those together that a base sees at the same size, for full batches."""
    sizes = in_threads(lambda item: transform.proportions(*read_size(item.path)), items)
    return [item for _, item in sorted(zip(sizes, items, strict=True), key=itemgetter(0))]


def count_cached(
    images: ImageSet,
    base: "FrozenBase",
    cache: Cache,
    dtype: str = "float16",
    *,
    views: int = 0,
    policy: Policy | None = None,
) -> tuple[int, int]:
    """Return how many different images have all that a base computes of them in the cache.

    Returns
    -------
    (int, int)
        These, and all different images.

    Raises
    ------
    CacheError
        A part cannot be read.
    """
    groups = [missing_views(images.items, _banks(base, cache, dtype, None))]
    if views:
        banks = _banks(base, cache, dtype, policy)
        groups.append(missing_views(training_items(images), banks, range(1, views + 1)))
    lacking = {digest for group in groups for own in group.values() for digest in own}
    distinct = {item.digest for item in images.items}
    return len(distinct - lacking), len(distinct)


def training_items(images: ImageSet) -> list[ImageItem]:
    """Return the images that have augmented views."""
    return [item for item in images.items if item.split == "train"]


def _banks(base: "FrozenBase", cache: Cache, dtype: str, policy: Policy | None) -> dict[str, Bank]:
    augmentation = policy.as_dict() if policy else None
    return {
        layer: cache.bank(base.model, base.fingerprint(layer, dtype, augmentation))
        for layer in base.layers
    }


def missing_views(
    items: Iterable[ImageItem], banks: Mapping[str, Bank], views: Sequence[int] = (0,)
) -> dict[tuple[str, ...], dict[str, list[int]]]:
    """Return the views to compute of different images, grouped by the layers that lack them.

    Returns
    -------
    dict of tuple of str to dict
        Layers to digest to views.
    """
    digests = list({item.digest: None for item in items})
    groups: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for view in views:
        held = {layer: bank.holds(layer, digests, view=view) for layer, bank in banks.items()}
        for place, digest in enumerate(digests):
            lacking = tuple(layer for layer in banks if not held[layer][place])
            if lacking:
                groups.setdefault(lacking, {}).setdefault(digest, []).append(view)
    return groups


def describe_layers(base: "FrozenBase", layers: Iterable[str], target: Target) -> None:
    """Describe layers in ``bank.json`` that are not yet there."""
    for layer in layers:
        bank = target.banks[layer]
        if bank.describes(layer):
            continue
        versions = {"python": platform.python_version()}
        provenance = {
            "fingerprint": base.fingerprint(layer, target.dtype, target.augmentation),
            "model": base.model,
            "weights_name": base.weights_name,
            "weights_random": base.weights_random,
            "versions": versions | {package: version(package) for package in _PACKAGES},
            **base.provenance(layer, target.dtype, target.augmentation),
            **({"policy": target.policy.name} if target.policy else {}),
        }
        details = {
            "alias": base.network.alias(layer),
            "shape": list(base.shapes[layer]),
            "canary": target.canary[layer],
        }
        bank.describe_layer(provenance, layer, details)
