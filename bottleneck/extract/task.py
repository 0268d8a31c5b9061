"""What there is to do: banks, what they lack, and whether they hold what the base computes."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from operator import itemgetter

from bottleneck.bases import FrozenBase, Transform
from bottleneck.cache import Bank, Cache
from bottleneck.errors import CacheError
from bottleneck.images import ImageItem, ImageSet, in_threads, read_size

__all__ = [
    "Canary",
    "Task",
    "check_banks",
    "count_cached",
    "describe_layers",
    "find_task",
    "missing_images",
]

Canary = Mapping[str, Sequence[Sequence[float]]]
"""Layer to the reference features of three images, as `FrozenBase.canary` gives them."""

_PACKAGES = ("torch", "torchvision", "timm", "h5py", "numpy", "pillow", "simplejpeg")


@dataclass(frozen=True)
class Task:
    """What there is to do.

    Attributes
    ----------
    banks : dict of str to Bank
        Layer to where it is stored.
    canary : dict
        Of all layers.
    missing : dict of tuple of str to list of ImageItem
        The images to compute, once each, grouped by the layers that they lack.
    """

    banks: dict[str, Bank]
    canary: Canary
    missing: dict[tuple[str, ...], list[ImageItem]]

    @property
    def images(self) -> int:
        """How many images there are to compute."""
        return sum(map(len, self.missing.values()))


def find_task(images: ImageSet, base: FrozenBase, cache: Cache, dtype: str) -> Task:
    """Find what the cache lacks; raise `CacheError` where a bank holds what the base does not."""
    banks = {layer: cache.bank(base.model, base.fingerprint(layer, dtype)) for layer in base.layers}
    canary = base.canary()
    check_banks(base, banks, dtype, canary)
    missing = missing_images(images, banks)
    if base.transform.keep_aspect:
        missing = {layers: _by_size(items, base.transform) for layers, items in missing.items()}
    return Task(banks, canary, missing)


def _by_size(items: Sequence[ImageItem], transform: Transform) -> list[ImageItem]:
    """Return images with those together that a base sees at the same size, for full batches."""
    sizes = in_threads(lambda item: transform.proportions(*read_size(item.path)), items)
    return [item for _, item in sorted(zip(sizes, items, strict=True), key=itemgetter(0))]


def count_cached(
    images: ImageSet, base: FrozenBase, cache: Cache, dtype: str = "float16"
) -> tuple[int, int]:
    """Return how many different images have all of a base's layers in the cache, and of how many.

    Raises
    ------
    CacheError
        A part cannot be read.
    """
    banks = {layer: cache.bank(base.model, base.fingerprint(layer, dtype)) for layer in base.layers}
    missing = sum(map(len, missing_images(images, banks).values()))
    distinct = len({item.digest for item in images.items})
    return distinct - missing, distinct


def missing_images(
    images: ImageSet, banks: Mapping[str, Bank]
) -> dict[tuple[str, ...], list[ImageItem]]:
    """Return the images to compute, once each, grouped by the layers that they lack."""
    items = list({item.digest: item for item in images.items}.values())
    digests = [item.digest for item in items]
    held = {layer: bank.holds(layer, digests) for layer, bank in banks.items()}
    groups: dict[tuple[str, ...], list[ImageItem]] = {}
    for place, item in enumerate(items):
        lacking = tuple(layer for layer in banks if not held[layer][place])
        if lacking:
            groups.setdefault(lacking, []).append(item)
    return groups


def check_banks(base: FrozenBase, banks: Mapping[str, Bank], dtype: str, canary: Canary) -> None:
    """Raise `CacheError` unless the banks that exist hold what the base computes."""
    for layer, bank in banks.items():
        if bank.exists and bank.info["fingerprint"] != base.fingerprint(layer, dtype):
            raise CacheError(
                f"bank {bank.name} has another fingerprint than its name says; move it away"
            )
        if bank.describes(layer):
            bank.check_canary(layer, canary[layer])


def describe_layers(
    base: FrozenBase, layers: Iterable[str], banks: Mapping[str, Bank], dtype: str, canary: Canary
) -> None:
    """Describe layers in ``bank.json`` that are not yet there."""
    for layer in layers:
        bank = banks[layer]
        if bank.describes(layer):
            continue
        versions = {"python": platform.python_version()}
        provenance = {
            "fingerprint": base.fingerprint(layer, dtype),
            "model": base.model,
            "weights_name": base.weights_name,
            "weights_random": base.weights_random,
            "versions": versions | {package: version(package) for package in _PACKAGES},
            **base.provenance(layer, dtype),
        }
        details = {
            "alias": base.network.alias(layer),
            "shape": list(base.shapes[layer]),
            "canary": canary[layer],
        }
        bank.describe_layer(provenance, layer, details)
