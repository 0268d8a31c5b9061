"""Fitted heads that answer the images of a server."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bottleneck.bases.encoded import Encoded
from bottleneck.files import sha256_of
from bottleneck.heads import Head
from bottleneck.heads.files import METADATA_FILE
from bottleneck.predict.engine import Engine, Pixels
from bottleneck.records import known_source
from bottleneck.serve.batching import Answer
from bottleneck.settings import PredictorSettings

__all__ = ["Heads"]


class Heads:
    """Heads and their bases, see `bottleneck.serve.batching.Answerer`.

    Parameters
    ----------
    folders : mapping of str to (Path, Head)
        By name, the folder of each head and the head; at least one.
    settings : PredictorSettings
        How images are computed.

    Raises
    ------
    UsageError, DataError, WeightsError
        As for `bottleneck.predict.engine.Engine`.
    """

    def __init__(
        self, folders: Mapping[str, tuple[Path, Head]], settings: PredictorSettings
    ) -> None:
        self._engine = Engine({name: head for name, (_, head) in folders.items()}, settings)
        self._digests = {
            name: sha256_of(folder / METADATA_FILE) for name, (folder, _) in folders.items()
        }
        self._threads = torch.get_num_threads()
        self.workers, self.batch_size = self._engine.workers, self._engine.batch_size
        self.decoders = self._engine.decoders
        on_processor = all(base.devices[0].type == "cpu" for base in self._engine.bases)
        self.few = self.workers * self.batch_size if on_processor else 0

    def begin_thread(self, *, few: bool) -> None:
        """Set the number of threads that torch starts in this one."""
        torch.set_num_threads(self._threads if few else 1)

    def ready(self, data: bytes) -> Pixels:
        """Decode an image and resize it, as each base sees it."""
        return self._engine.pixels(Encoded(data))

    def answers(self, images: Sequence[Pixels], *, few: bool) -> list[Answer]:
        """Return the predictions of images by head, in order."""
        found = self._engine.predictions(images, [""] * len(images), few=few)
        return [dict(zip(found, each, strict=True)) for each in zip(*found.values(), strict=True)]

    def facts(self) -> list[dict[str, Any]]:
        """Describe each head, without paths: folders of fine-tuned models are names of bases."""
        return [
            {
                "head": name,
                "digest": self._digests[name],
                "classifier": head.clf,
                "classes": list(head.classes),
                "several_classes": head.multilabel,
                "novelty": head.novelty is not None,
                "features": [
                    {
                        "layer": part.layer_name,
                        "pool": part.pool,
                        "fingerprint": part.fingerprint,
                        "weights_random": part.weights_random,
                    }
                    for part in known_source(head.source).parts
                ],
            }
            for name, head in self._engine.heads.items()
        ]
