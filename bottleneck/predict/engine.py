"""Heads and their bases, loaded once: pixels in, predictions of each head out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from bottleneck.bases import Transform
from bottleneck.bases.encoded import Encoded
from bottleneck.cache import store
from bottleneck.extract.decoding import preprocess
from bottleneck.extract.lanes import Lanes, find_lanes, usable_cores
from bottleneck.features import vectors
from bottleneck.heads import Head
from bottleneck.heads.bases import bases_of, load_bases_of
from bottleneck.predict.prediction import check_abstain, predictions_of
from bottleneck.records import FeatureSource, Prediction, known_source
from bottleneck.settings import PredictorSettings

__all__ = ["Engine", "Pixels"]

_MANY = 10**6
"""Images that are not counted in advance."""

Pixels = tuple[torch.Tensor, ...]
"""An image as each base sees it: uint8 of shape (3, height, width)."""


@dataclass(frozen=True)
class _Needed:
    """The layers that several heads need, each once."""

    parts: tuple[FeatureSource, ...]


def _values_of(part: FeatureSource) -> tuple[str, str, str]:
    """Return what decides the features of a layer, of whatever images."""
    return part.layer, part.fingerprint, part.pool


class Engine:
    """Heads that predict together: a base that several of them need is computed once.

    Parameters
    ----------
    heads : mapping of str to Head
        Heads by name, at least one.
    settings : PredictorSettings
        How images are computed.

    Attributes
    ----------
    heads : dict of str to Head
        The heads.
    bases : list of FrozenBase
        The bases, each with all layers that a head needs of it.

    Raises
    ------
    UsageError
        A head does not know what `abstain` needs; or as `load_bases_of` raises.
    DataError, WeightsError
        As `load_bases_of` raises.
    """

    def __init__(self, heads: Mapping[str, Head], settings: PredictorSettings) -> None:
        for head in heads.values():
            check_abstain(head, settings.abstain)
        self.heads, self._abstain = dict(heads), settings.abstain
        parts = [part for head in heads.values() for part in known_source(head.source).parts]
        needed = _Needed(tuple({_values_of(part): part for part in parts}.values()))
        where = {name: getattr(settings, name) for name in ("weights", "device", "max_pixels")}
        self.bases = load_bases_of(needed, **where)
        self._groups = bases_of(needed)
        self._batch_size: int | Literal["auto"] = settings.batch_size

    @cached_property
    def _single(self) -> list[Lanes]:
        """Workers for each base, for single images: a GPU finds no batch size by trial."""
        return [find_lanes(base, 1, 1) for base in self.bases]

    @cached_property
    def _few(self) -> list[Lanes]:
        """One worker for each base, for images that all cores compute together."""
        lanes = [replace(lanes.all[0], least=1) for lanes in self._single]
        return [Lanes([each], _MANY, 1, decode_ahead=False) for each in lanes]

    @cached_property
    def _many(self) -> list[Lanes]:
        """Workers for each base, which compute batches beside each other."""
        return [find_lanes(base, _MANY, self._batch_size) for base in self.bases]

    @property
    def workers(self) -> int:
        """Number of threads that compute batches of many images at the same time."""
        return max(len(lanes.all) for lanes in self._single)

    @cached_property
    def decoders(self) -> int:
        """Number of threads that decode images at the same time."""
        return usable_cores()

    @property
    def decode_ahead(self) -> bool:
        """Whether images are better decoded in other threads than those that compute batches."""
        return any(lanes.decode_ahead for lanes in self._single)

    @property
    def batch_size(self) -> int:
        """Number of images that each of these threads takes at a time."""
        return max(lanes.batch_size for lanes in self._many)

    def pixels(self, image: Encoded) -> Pixels:
        """Decode an image and resize it, as each base sees it.

        Parameters
        ----------
        image : Encoded
            The image.

        Returns
        -------
        tuple of torch.Tensor

        Raises
        ------
        BadImageError
            The image cannot be used; the message is the reason.
        """
        seen: dict[Transform, torch.Tensor] = {}
        for base in self.bases:
            if base.transform not in seen:
                seen[base.transform] = preprocess(base.transform, image)
        return tuple(seen[base.transform] for base in self.bases)

    def predictions(
        self, images: Sequence[Pixels], paths: Sequence[str], *, few: bool
    ) -> dict[str, list[Prediction]]:
        """Compute images and predict their classes.

        Parameters
        ----------
        images : sequence of tuple of torch.Tensor
            At least one, from `pixels`.
        paths : sequence of str
            Their names.
        few : bool
            Compute them with all threads of torch at once, and no others beside them; otherwise
            in one of `workers` threads, each of which should have one thread of torch.

        Returns
        -------
        dict of str to list of Prediction
            By head, in order.

        Raises
        ------
        MemoryShortError
            The images do not fit into memory.
        FeatureOverflowError, DataError
            An activation or a score is not finite.
        """
        columns: dict[object, np.ndarray] = {}
        lanes = self._few if few else self._many
        for place, group in enumerate(self._groups):
            found = lanes[place].compute([each[place] for each in images])
            for part in group:
                rows = store(found[part.layer], part.dtype, part.layer)
                columns[_values_of(part)] = vectors(part, rows)
        predicted = {}
        for name, head in self.heads.items():
            parts = known_source(head.source).parts
            joined = np.hstack([columns[_values_of(part)] for part in parts])
            plain = list(joined[:, None])
            predicted[name] = predictions_of(head, plain, paths, abstain=self._abstain)
        return predicted
