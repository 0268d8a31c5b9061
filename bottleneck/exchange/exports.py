"""Features out of the cache into one plain file."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from bottleneck.cache import Bank, Cache, Dataset
from bottleneck.errors import CacheError
from bottleneck.exchange.formats import BLOCK_BYTES, FORMAT, Exchange, writer_of
from bottleneck.features import vectors
from bottleneck.files import atomic_write
from bottleneck.images import ImageSet
from bottleneck.records import ExportRecord, FeatureSource

__all__ = ["export_features"]


def export_features(cache: Cache, selection: FeatureSource, file: str | Path) -> Exchange:
    """Write a layer's features of an image set, with paths, labels and splits, to one file.

    The file holds ``features`` (n, ...), and ``paths``, ``labels``, ``splits`` and ``digests`` as
    texts (n,), in the order of the image set; ``provenance`` is JSON. It is made in bounded memory.

    Parameters
    ----------
    cache : Cache
        Where they are.
    selection : FeatureSource
        Which they are. As stored, or float32 where they are pooled otherwise than they are stored.
    file : str or Path
        Ends in ``.h5``, ``.hdf5`` or ``.npz``. Replaced if it exists.

    Raises
    ------
    UsageError
        The ending is another.
    CacheError
        A row is missing or damaged, or the file cannot be written.
    """
    target = Path(file)
    write = writer_of(target)
    images = ImageSet.read_csv(cache.set_file(selection.image_set))
    bank, *_ = cache.banks_of(selection)
    digests = [item.digest for item in images.items]
    convert = None if selection.pool == selection.stored_pool else partial(vectors, selection)
    first = bank.read(selection.layer, digests[:1], convert=convert)
    blocks = _Rows(bank, selection.layer, digests, convert)
    features = Dataset((len(digests), *first.shape[1:]), first.dtype, blocks)
    texts = {
        "paths": [item.path for item in images.items],
        "labels": [item.label or "" for item in images.items],
        "splits": [item.split or "" for item in images.items],
        "digests": digests,
    }
    info = bank.info
    described = replace(info, layers={selection.layer: info.layers[selection.layer]})
    provenance = ExportRecord(format=FORMAT, selection=selection, bank=described).as_dict()
    try:
        atomic_write(target, write(features, texts, json.dumps(provenance)))
    except CacheError:
        raise
    except OSError as error:
        raise CacheError(
            f"{str(target)!r} cannot be written ({error.strerror}); see to the space and the "
            f"rights there, or name another file"
        ) from error
    return Exchange.of(
        selection, target, images=len(digests), shape=first.shape[1:], dtype=str(first.dtype)
    )


@dataclass(frozen=True)
class _Rows:
    """Rows of a bank, read anew whenever they are gone through."""

    bank: Bank
    layer: str
    digests: Sequence[str]
    convert: Callable[[np.ndarray], np.ndarray] | None

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.bank.stream(self.layer, self.digests, memory=BLOCK_BYTES, convert=self.convert)
