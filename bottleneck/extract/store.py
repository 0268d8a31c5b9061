"""Store computed features as parts of banks."""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from math import prod
from typing import Any

import numpy as np

from bottleneck.augment import Policy, find_policy
from bottleneck.bases import WEIGHTS_NAME, digests_of_network
from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import Bank, Cache, PartWriter, compression_options, store
from bottleneck.errors import CacheError, FeatureOverflowError, UsageError
from bottleneck.extract.compute import Batch
from bottleneck.extract.decoding import reference_features
from bottleneck.records import BankRecord, StoredLayer
from bottleneck.settings import StoreSettings

__all__ = ["Target", "find_targets", "targets_of_all"]

_PACKAGES = ("torch", "torchvision", "timm", "h5py", "numpy", "pillow", "simplejpeg")


@dataclass(frozen=True)
class Target:
    """The banks of a base's features, of unaugmented images or of augmented views.

    Attributes
    ----------
    base : FrozenBase
        The base that computes the features.
    banks : mapping of str to Bank
        Layer to its bank.
    canary : mapping of str to sequence
        Layer to the base's `reference_features`, which those of existing banks must equal; empty
        if nothing is to be computed, so that they need not be compared.
    settings : StoreSettings
        Data type, compression and number of views.
    policy : Policy or None
        Augmentation policy of the stored views; None for unaugmented images.

    Raises
    ------
    MissingExtraError
        hdf5plugin, needed for compression, is not installed.
    CacheError
        A bank has features that the base does not reproduce: the fingerprint or the reference
        features differ.
    """

    base: FrozenBase
    banks: Mapping[str, Bank]
    canary: Mapping[str, Sequence[Sequence[float]]]
    settings: StoreSettings
    policy: Policy | None

    def __post_init__(self) -> None:
        compression_options(self.settings.compress, np.empty((1, 1)))
        for layer, bank in self.banks.items():
            fingerprint = self.fingerprint(layer)
            if not bank.name.endswith(f"-{fingerprint[:12]}"):
                raise CacheError(
                    f"{self.base.model} with weights {self.base.weights_name!r} is not the base of "
                    f"bank {bank.name}; give the weights and preprocessing that the bank was "
                    f"computed with"
                )
            if bank.exists and bank.info.fingerprint != fingerprint:
                raise CacheError(
                    f"the fingerprint of bank {bank.name} does not match its name; move the bank "
                    f"elsewhere"
                )
            if self.canary and bank.describes(layer):
                bank.check_canary(layer, self.canary[layer])

    @property
    def views(self) -> tuple[int, ...]:
        """The views of each image that must be in the banks."""
        return tuple(range(1, self.settings.views + 1)) if self.policy else (0,)

    @property
    def augmentation(self) -> dict[str, Any] | None:
        """The part of the policy that enters fingerprints."""
        return self.policy.as_dict() if self.policy else None

    def fingerprint(self, layer: str) -> str:
        """Return the fingerprint of a layer.

        Parameters
        ----------
        layer : str
            A layer of the base.

        Returns
        -------
        str
            64 hexadecimal digits.

        Raises
        ------
        KeyError
            The base does not have the layer.
        """
        return self.base.fingerprint(layer, self.settings.dtype, self.augmentation)

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

    def row_bytes(self, layer: str) -> int:
        """Return the bytes of a view's features.

        Parameters
        ----------
        layer : str
            A layer of the base.

        Returns
        -------
        int

        Raises
        ------
        KeyError
            The base does not have the layer.
        """
        return np.dtype(self.settings.dtype).itemsize * prod(self.base.shapes[layer])

    @contextmanager
    def storing(
        self, layers: Sequence[str], *, share: int = 1
    ) -> Iterator[Callable[[Batch], None]]:
        """Yield a function that stores a batch. What it has stored is committed at the end.

        Parameters
        ----------
        layers : sequence of str
            Layers of the batches.
        share : int
            Number of banks that share the memory for parts.

        Yields
        ------
        callable
            Takes a batch. Raises `FeatureOverflowError` if an activation is too large for the
            stored type, and `CacheError` if a part cannot be written.

        Raises
        ------
        CacheError
            A part cannot be written.
        """
        banks, settings = self.by_bank(layers), self.settings
        writers: dict[str, PartWriter] = {}
        with ExitStack() as stack:

            def append(batch: Batch) -> None:
                if batch.items and not writers:
                    for layer, values in batch.features.items():
                        store(values, settings.dtype, layer)  # only what can be gets a bank
                    self.describe(layers)
                    for name, (first, *_) in banks.items():
                        writer = self.banks[first].writer(
                            settings.dtype, share=share, compress=settings.compress
                        )
                        writers[name] = stack.enter_context(writer)
                digests, views = [item.digest for item in batch.items], np.array(batch.views)
                for name, writer in writers.items() if batch.items else ():
                    own = {layer: batch.features[layer] for layer in banks[name]}
                    writer.append(digests, own, views=views)

            def named(batch: Batch) -> None:
                try:
                    append(batch)
                except FeatureOverflowError as error:  # which names only the layer
                    raise FeatureOverflowError(f"{self.base.model}: {error}") from error

            yield named

    def describe(self, layers: Iterable[str]) -> None:
        """Add layers to ``bank.json`` that are not there yet.

        Parameters
        ----------
        layers : iterable of str
            Keys of `banks` and of `canary`.

        Raises
        ------
        CacheError
            The cache cannot be written, or another process found another canary.
        """
        for layer in layers:
            bank = self.banks[layer]
            if bank.describes(layer):  # another process may just have described it
                bank.check_canary(layer, self.canary[layer])
                continue
            details = StoredLayer(
                alias=self.base.network.alias(layer),
                typed=self.base.names[layer],
                aliases=self.base.network.names_of(layer),
                shape=list(self.base.shapes[layer]),
                canary=[list(values) for values in self.canary[layer]],
            )
            decides = self.base.provenance(layer, self.settings.dtype, self.augmentation)
            record = BankRecord(
                fingerprint=self.fingerprint(layer),
                model=self.base.model,
                weights_name=self.base.weights_name,
                weights_random=self.base.weights_random,
                versions={"python": platform.python_version()}
                | {package: version(package) for package in _PACKAGES},
                policy=self.policy.name if self.policy else None,
                layers={layer: details},
                seen=self._seen(),
                **decides | {"transform": self.base.transform},
            )
            bank.describe(record)

    def _seen(self) -> list[str] | None:
        """Return what a fine-tuned network was trained on, as its folder may be gone later."""
        if self.base.weights_name != WEIGHTS_NAME:
            return None
        return sorted(digests_of_network(self.base.model))

    def refresh(self) -> None:
        """Update what ``bank.json`` says of layers and network, and ``features.h5`` of parts."""
        seen = self._seen()
        for layer, bank in self.banks.items():
            info = bank.info if bank.exists else None
            known = info and info.layers.get(layer)
            typed, aliases = self.base.names[layer], self.base.network.names_of(layer)
            if info and known:
                named = replace(known, typed=typed, aliases=aliases)
                model = info.model if seen is None else self.base.model  # its folder may be moved
                if named != known or seen not in (None, info.seen) or model != info.model:
                    new = replace(info, model=model, layers={layer: named}, seen=seen)
                    bank.describe(new, moved=True)
            if bank.view_file_is_old:
                bank.rebuild_view_file()


def find_targets(
    base: FrozenBase, cache: Cache, settings: StoreSettings, *, compare: bool = True
) -> list[Target]:
    """Return the targets of a base: for unaugmented images and, if there are any, for views.

    Parameters
    ----------
    base : FrozenBase
        The base.
    cache : Cache
        The cache of the banks, which need not exist yet.
    settings : StoreSettings
        Augmentation, number of views and storage.
    compare : bool
        Whether to compute the reference features, without which nothing can be stored.

    Returns
    -------
    list of Target
        One or two targets.

    Raises
    ------
    UnknownNameError, PathMissingError, UsageError
        The augmentation is invalid, see `bottleneck.augment.find_policy`.
    MissingExtraError, CacheError
        See `Target`.
    """
    viewed = [find_policy(settings.augment)] if settings.views and settings.augment else []
    targets = []
    for policy in (None, *viewed):
        augmentation = policy.as_dict() if policy else None
        names = {each: base.fingerprint(each, settings.dtype, augmentation) for each in base.layers}
        banks = {layer: cache.bank(base.model, name) for layer, name in names.items()}
        canary = reference_features(base, policy) if compare else {}
        targets.append(Target(base, banks, canary, settings, policy))
    return targets


def targets_of_all(
    bases: FrozenBase | Sequence[FrozenBase],
    cache: Cache,
    settings: StoreSettings,
    *,
    compare: bool = True,
) -> list[list[Target]]:
    """Return the targets of each base, see `find_targets`.

    Parameters
    ----------
    bases : FrozenBase or sequence of FrozenBase
        One base or several.
    cache, settings, compare
        As for `find_targets`.

    Returns
    -------
    list of list of Target

    Raises
    ------
    UnknownNameError, PathMissingError, MissingExtraError, CacheError
        As for `find_targets`.
    UsageError
        Two bases have the same bank, or there are none.
    """
    several = [bases] if isinstance(bases, FrozenBase) else list(bases)
    if not several:
        raise UsageError("no base to extract features with; give at least one")
    found = [find_targets(base, cache, settings, compare=compare) for base in several]
    owners: dict[str, int] = {}
    for number, (base, targets) in enumerate(zip(several, found, strict=True)):
        for bank in targets[0].banks.values():
            if owners.setdefault(bank.name, number) != number:
                raise UsageError(
                    f"two of the bases are {base.model} and have the same bank, {bank.name}; give "
                    f"each base once, with all its layers"
                )
    return found
