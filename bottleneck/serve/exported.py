"""Exported ``.onnx`` files that answer the images of a server, without PyTorch."""

import hashlib
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from PIL import Image

from bottleneck.bases import Transform
from bottleneck.bases.encoded import Encoded
from bottleneck.errors import DataError, ExportError, PathMissingError, UsageError, first_line
from bottleneck.inputs import read_regular
from bottleneck.labels import join_classes
from bottleneck.records import SHIPPED, Prediction, ShippedRecord, TransformFacts, facts_of
from bottleneck.serve.batching import Answer
from bottleneck.sessions import open_session
from bottleneck.settings import ServeSettings

__all__ = ["Files", "preprocessed"]

_AT_ONCE = 8
_WAITING_BYTES = 2**29
_OF_HEADS: dict[str, set[str | None]] = {
    "abstain": {None},
    "weights": {None},
    "device": {"auto", "cpu"},
}
"""Settings that files do not know, and the values that change nothing."""


class Files:
    """Exported files, see `bottleneck.serve.batching.Answerer`.

    Parameters
    ----------
    files : mapping of str to Path
        By name, at least one.
    settings : ServeSettings
        How images are computed.

    Raises
    ------
    UsageError
        A setting is for heads only.
    PathMissingError
        There is no such file.
    DataError
        A file was not exported by this package, or ONNX Runtime cannot load it.
    MissingExtraError
        ONNX Runtime is not installed.
    """

    few = 0  # one session's threads serve all batches

    def __init__(self, files: Mapping[str, Path], settings: ServeSettings) -> None:
        for name, neutral in _OF_HEADS.items():
            if getattr(settings, name) not in neutral:
                raise UsageError(
                    f"`{name}` is for heads, which have their base and know novelty, but .onnx "
                    f"files are served; leave `{name}` out, or serve the head itself"
                )
        self._room = _Room(_WAITING_BYTES, settings.timeout)
        self.workers = self.decoders = joblib.cpu_count()
        self.batch_size = _AT_ONCE if settings.batch_size == "auto" else settings.batch_size
        self._files = {
            name: _File(path, settings.max_pixels, self.workers) for name, path in files.items()
        }

    def begin_thread(self, *, few: bool) -> None:
        """Do nothing: sessions have their own threads."""

    def ready(self, data: bytes) -> list[np.ndarray]:
        """Return an image as each file takes it."""
        seen: dict[tuple[Transform, bool], np.ndarray] = {}
        for each in self._files.values():
            if each.takes not in seen:
                transform, whole = each.takes
                seen[each.takes] = preprocessed(data, transform, whole=whole)
                self._room.take(seen[each.takes])
        return [seen[each.takes] for each in self._files.values()]

    def answers(self, images: Sequence[Sequence[np.ndarray]], *, few: bool) -> list[Answer]:  # noqa: ARG002 - one way
        """Return the predictions of images by file, in order."""
        found = [
            file.predictions(inputs)
            for file, inputs in zip(self._files.values(), zip(*images, strict=True), strict=True)
        ]
        return [dict(zip(self._files, each, strict=True)) for each in zip(*found, strict=True)]

    def facts(self) -> list[dict[str, Any]]:
        """Describe each file: what is known of a head, and the file's own record."""
        return [
            {
                "head": name,
                "digest": file.digest,
                "classifier": file.record.clf,
                "classes": list(file.record.classes),
                "several_classes": file.record.multilabel,
                "novelty": False,
                "record": file.record.as_dict(),
            }
            for name, file in self._files.items()
        ]


class _Room:
    """Memory for images that wait: who has decoded one waits until there is room for it.

    Else a full queue of images that are not resized could take all memory.

    Parameters
    ----------
    limit : int
        Bytes of all images; a larger one waits until it is alone.
    seconds : float
        Time after which nobody waits for an image any more, so that it takes its place.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit, self._seconds, self._taken = limit, seconds, 0
        self._changed = threading.Condition()

    def take(self, image: np.ndarray) -> None:
        """Wait for room, and keep it until nobody has the image."""
        size = image.nbytes
        with self._changed:
            fits = lambda: not self._taken or self._taken + size <= self._limit  # noqa: E731
            self._changed.wait_for(fits, self._seconds)
            self._taken += size
        weakref.finalize(image, self._leave, size)

    def _leave(self, size: int) -> None:
        with self._changed:
            self._taken -= size
            self._changed.notify_all()


class _File:
    """An exported file in ONNX Runtime."""

    def __init__(self, path: Path, max_pixels: int | None, threads: int) -> None:
        try:
            content = read_regular(path)
        except OSError as error:
            raise PathMissingError(
                f"{str(path)!r} cannot be read ({error.strerror or error}); give an .onnx file "
                f"that 'bottleneck export' wrote"
            ) from error
        self.digest = hashlib.sha256(content).hexdigest()
        try:
            self._session = open_session(content, threads=threads, any_size=True)
        except ExportError as error:
            cause = first_line(error.__cause__ or error)
            raise DataError(
                f"{str(path)!r} cannot be loaded by ONNX Runtime ({cause}); give an .onnx file "
                f"that 'bottleneck export' wrote"
            ) from error
        self.record = self._record_in(str(path))
        facts = facts_of(self.record.transform, TransformFacts)
        self.takes = Transform(**facts, max_pixels=max_pixels), self.record.input == "images"

    def _record_in(self, path: str) -> ShippedRecord:
        """Return what the file says of itself."""
        stored = self._session.get_modelmeta().custom_metadata_map.get(SHIPPED)
        if stored is None:
            raise DataError(
                f"{path!r} is an .onnx file that 'bottleneck export' did not write, so that its "
                f"classes and preprocessing are unknown; export a head, and serve that file"
            )
        try:
            return ShippedRecord.of_json(stored)
        except ValueError as error:
            raise DataError(
                f"{path!r} has a record that cannot be read ({first_line(error)}), as it is "
                f"damaged or of another version; export the head again"
            ) from error

    def predictions(self, inputs: Sequence[np.ndarray]) -> list[Prediction]:
        """Return the predictions of images, computing those of one shape together."""
        alike: dict[tuple[int, ...], list[int]] = {}
        for place, each in enumerate(inputs):
            alike.setdefault(each.shape, []).append(place)
        found: dict[int, Prediction] = {}
        for places in alike.values():
            batch = {self.record.input: np.stack([inputs[place] for place in places])}
            (rows,) = self._session.run(None, batch)
            found |= zip(places, map(self._prediction, rows), strict=True)
        return [found[place] for place in range(len(inputs))]

    def _prediction(self, row: np.ndarray) -> Prediction:
        """Return what the probabilities of an image tell."""
        record = self.record
        if record.multilabel:
            label = join_classes(np.compress(row > record.thresholds, record.classes).tolist())
        else:
            label = record.classes[row.argmax()]
        shares = dict(zip(record.classes, row.tolist(), strict=True))
        return Prediction("", label, scores={}, probabilities=shares)


def preprocessed(data: bytes, transform: Transform, *, whole: bool) -> np.ndarray:
    """Decode an image and preprocess it as `bottleneck.bases.Transform` does, without PyTorch.

    It is resized by Pillow, whatever `exact_resize` says; without it a few values differ by 1 of
    255.

    Parameters
    ----------
    data : bytes
        The bytes of an image file.
    transform : Transform
        The preprocessing.
    whole : bool
        Whether the image is only decoded, as the file has its preprocessing in it.

    Returns
    -------
    np.ndarray
        float32 of shape (3, height, width); or uint8 of shape (height, width, 3) if `whole`.

    Raises
    ------
    BadImageError
        The image cannot be used; the message is the reason.
    """
    image = Encoded(data)
    if whole:
        found = image.decoded(transform).pixels
        transform.size_of(*found.shape[:2])  # raises an error if it is too thin
        return found
    reduced, (height, width) = image.reduced(transform)
    kernel = Image.Resampling[transform.interpolation.upper()]
    resized = np.asarray(Image.fromarray(reduced.pixels).resize((width, height), kernel))
    cropped = resized if transform.keep_aspect else _centre(resized, transform.crop)
    mean, std = (np.array(each, np.float32) for each in (transform.mean, transform.std))
    normal = (cropped.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def _centre(image: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    """Cut the centre, as torchvision does: what is smaller is padded with black."""
    missing = [max(0, side - now) for side, now in zip(crop, image.shape[:2], strict=True)]
    padded = np.pad(image, [*((each // 2, (each + 1) // 2) for each in missing), (0, 0)])
    top, left = (round((now - side) / 2) for side, now in zip(crop, padded.shape[:2], strict=True))
    return padded[top : top + crop[0], left : left + crop[1]]
