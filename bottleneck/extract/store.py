"""Store computed features as parts of banks."""

import platform
from collections.abc import Container, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.metadata import version
from math import prod

import numpy as np

from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import PartWriter, compression_options, store
from bottleneck.errors import CacheError
from bottleneck.extract.compute import Batch
from bottleneck.extract.plan import Plan, Target, find_tasks
from bottleneck.records import BankRecord, StoredLayer

__all__ = ["Canary", "FeatureWriter", "check_base"]

Canary = Mapping[str, Sequence[Sequence[float]]]
"""Layer to the reference features of three images, see `FrozenBase.canary`."""

_PACKAGES = ("torch", "torchvision", "timm", "h5py", "numpy", "pillow", "simplejpeg")


@dataclass(frozen=True)
class FeatureWriter:
    """Writes features into banks.

    Attributes
    ----------
    base : FrozenBase
        The base that computes them.
    target : Target
        The banks to write to.
    canary : dict
        Reference features of all layers of the base.
    compress : str
        Compression of parts: ``none``, ``lz4`` or ``zstd``.

    Raises
    ------
    MissingExtraError
        hdf5plugin, needed for compression, is not installed.
    CacheError
        A bank has features that the base does not reproduce.
    """

    base: FrozenBase
    target: Target
    canary: Canary
    compress: str = "none"

    def __post_init__(self) -> None:
        compression_options(self.compress, np.empty((1, 1)))
        check_base(self.base, self.target, self.canary)

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
        return np.dtype(self.target.dtype).itemsize * prod(self.base.shapes[layer])

    def write(self, batches: Generator[Batch], layers: Sequence[str]) -> Generator[Batch]:
        """Store batches of some layers, and yield each once it is appended.

        Appended rows are committed when the generator ends or is closed.

        Parameters
        ----------
        batches : generator of Batch
            Computed batches; the generator is closed at the end.
        layers : sequence of str
            Layers of the batches.

        Yields
        ------
        Batch
            The same batch.

        Raises
        ------
        FeatureOverflowError
            An activation is too large for the stored type.
        CacheError
            A part cannot be written.
        """
        banks = self.target.by_bank(layers)
        writers: dict[str, PartWriter] = {}
        with closing(batches), ExitStack() as stack:
            for batch in batches:
                if batch.items and not writers:
                    for layer, values in batch.features.items():
                        store(values, self.target.dtype, layer)  # only what can be gets a bank
                    self._describe(layers)
                    for name, (first, *_) in banks.items():
                        writer = self.target.banks[first].writer(
                            self.target.dtype, share=len(banks), compress=self.compress
                        )
                        writers[name] = stack.enter_context(writer)
                digests, views = [item.digest for item in batch.items], np.array(batch.views)
                for name, writer in writers.items() if batch.items else ():
                    own = {layer: batch.features[layer] for layer in banks[name]}
                    writer.append(digests, own, views=views)
                yield batch

    def finish(self, plan: Plan, bad: Container[str]) -> None:
        """Check that the banks contain and describe everything in a plan, except bad images.

        Parameters
        ----------
        plan : Plan
            The plan that was carried out.
        bad : container of str
            SHA-256 of images that could not be used.

        Raises
        ------
        CacheError
            Something is missing.
        """
        self._describe([layer for layer, bank in self.target.banks.items() if bank.size])
        planned = plan.items if plan.tasks else ()  # else they have just been found
        tasks = find_tasks(planned, self.target.banks, plan.views)
        gone = {digest for task in tasks for digest in task.views if digest not in bad}
        if gone:
            raise CacheError(
                f"{len(gone)} of {len(plan.items)} images disappeared from the cache during "
                f"extraction, as another command removed parts; run the command again"
            )
        self.refresh()

    def refresh(self) -> None:
        """Update each ``features.h5`` to the current parts."""
        for bank in self.target.banks.values():
            if bank.view_file_is_old:
                bank.rebuild_view_file()

    def _describe(self, layers: Sequence[str]) -> None:
        """Add layers to ``bank.json`` that are not there yet."""
        for layer in layers:
            bank = self.target.banks[layer]
            if bank.describes(layer):
                continue
            details = StoredLayer(
                alias=self.base.network.alias(layer),
                shape=list(self.base.shapes[layer]),
                canary=[list(values) for values in self.canary[layer]],
            )
            decides = self.base.provenance(layer, self.target.dtype, self.target.augmentation)
            record = BankRecord(
                fingerprint=self.target.fingerprint(self.base, layer),
                model=self.base.model,
                weights_name=self.base.weights_name,
                weights_random=self.base.weights_random,
                versions={"python": platform.python_version()}
                | {package: version(package) for package in _PACKAGES},
                policy=self.target.policy.name if self.target.policy else None,
                layers={layer: details},
                **decides | {"transform": self.base.transform},
            )
            bank.describe(record)


def check_base(base: FrozenBase, target: Target, canary: Canary) -> None:
    """Raise `CacheError` if a base does not reproduce the features of a bank.

    Parameters
    ----------
    base : FrozenBase
        The base.
    target : Target
        The banks.
    canary : mapping of str to sequence
        Layer to reference features, as `FrozenBase.canary` returns them.

    Raises
    ------
    CacheError
        The fingerprint or reference features of a bank differ from the base's.
    """
    for layer, bank in target.banks.items():
        fingerprint = target.fingerprint(base, layer)
        if not bank.name.endswith(f"-{fingerprint[:12]}"):
            raise CacheError(
                f"{base.model} with weights {base.weights_name!r} is not the base of bank "
                f"{bank.name}; give the weights and preprocessing that the bank was computed with"
            )
        if bank.exists and bank.info.fingerprint != fingerprint:
            raise CacheError(
                f"the fingerprint of bank {bank.name} does not match its name; move the bank "
                f"elsewhere"
            )
        if bank.describes(layer):
            bank.check_canary(layer, canary[layer])
