"""Predict from anywhere: a head with its base and preprocessing, as one object."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.arguments import checked, made
from bottleneck.errors import BadImageError
from bottleneck.extract.compute import ahead
from bottleneck.extract.lanes import freed_memory_kept
from bottleneck.heads import Head
from bottleneck.images import RejectedImage
from bottleneck.predict.engine import Engine, Pixels
from bottleneck.predict.forms import AnyImage, Given, given_images
from bottleneck.records import Prediction
from bottleneck.settings import PredictorSettings

__all__ = ["Predictor"]

_HEAD = "head"
_Ready = tuple[str, Pixels | str]
"""The name of an image, and its pixels or the reason why it cannot be used."""


class Predictor:
    """A fitted head with its base and preprocessing: images in, classes out.

    It is made from the head's folder, also in another process: a pickle of it holds the path and
    the settings, and no weights.

    Parameters
    ----------
    head : str or Path
        Folder of the head, such as ``heads/svm``.
    settings : PredictorSettings, optional
        Settings, or their fields as `options`: `batch_size`, `weights`, `device`, `max_pixels`,
        `max_bytes` and `abstain`.
    **options
        Fields of `PredictorSettings`, in place of `settings`.

    Attributes
    ----------
    path : Path
        The head's folder.
    head : Head
        The head.
    classes : tuple of str
        The classes, in the order of the columns of probabilities.

    Raises
    ------
    UnknownNameError
        There is no head in the folder.
    WrongTypeError
        `head` is not a path.
    UsageError, DataError, WeightsError
        As `Head.load` and `load_bases` raise; or the head does not know what `abstain` needs.

    Notes
    -----
    An image is a path, the bytes of a file, a file opened with ``"rb"``, an image of Pillow, or a
    NumPy array: uint8 of shape (height, width, 3). Methods take one, or several in a list, a
    generator, an array of paths, or pixels of four dimensions. A few images are computed by all
    cores together, and many of them in batches, with each core on its own; features then equal
    those of a cache.

    Examples
    --------
    >>> predictor = Predictor("heads/svm")  # doctest: +SKIP
    >>> predictor.predict(["a.jpg", "b.jpg"])  # doctest: +SKIP
    array(['cat', 'dog'], dtype='<U3')
    """

    @checked
    def __init__(
        self, head: str | Path, settings: PredictorSettings | None = None, **options: Any
    ) -> None:
        self._settings = made(PredictorSettings, settings, options)
        self.path = Path(head)
        self.head = Head.load(self.path)
        self.classes = self.head.classes
        self._engine = Engine({_HEAD: self.head}, self._settings)

    def __reduce__(self) -> tuple[type["Predictor"], tuple[Path, PredictorSettings]]:
        """Pickle the path and the settings."""
        return type(self), (self.path.absolute(), self._settings)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def predict(self, images: AnyImage | Iterable[AnyImage]) -> np.ndarray:
        """Return the class of each image, shape (n,).

        Parameters
        ----------
        images : image or iterable of image
            One or several, see above.

        Returns
        -------
        np.ndarray
            Texts: several classes are separated by semicolons. None for an image whose novelty is
            above `abstain`.

        Raises
        ------
        BadImageError
            An image cannot be used; `predictions` tells all of them instead.
        WrongTypeError
            An image is not in a known form.
        """
        labels = [each.label for each in self._all(images)]
        return np.array(labels, dtype=object if None in labels else str)

    def predict_proba(self, images: AnyImage | Iterable[AnyImage]) -> np.ndarray:
        """Return the probabilities of the classes of each image, shape (n, k).

        Parameters
        ----------
        images : image or iterable of image
            One or several, see above.

        Returns
        -------
        np.ndarray
            Columns are `classes`; rows sum to 1 unless images may have several classes.

        Raises
        ------
        BadImageError, WrongTypeError
            As for `predict`.
        """
        rows = [list(each.probabilities.values()) for each in self._all(images)]
        return np.array(rows).reshape(-1, len(self.classes))

    def predictions(
        self, images: AnyImage | Iterable[AnyImage]
    ) -> Iterator[Prediction | RejectedImage]:
        """Yield what the head tells of each image, in order, ahead of the reader.

        Parameters
        ----------
        images : image or iterable of image
            One or several, see above; a generator is read as predictions are, but for the first
            images, a batch for each worker.

        Yields
        ------
        Prediction or RejectedImage
            With the path of the image, or ``images[N]``; or why it cannot be used.

        Raises
        ------
        WrongTypeError
            An image is not in a known form.
        """
        limits = self._settings.max_bytes, self._settings.max_pixels
        given, engine = given_images(images, *limits), self._engine
        first = list(islice(given, engine.workers))
        few = len(first) < engine.workers
        if not few:  # only now, as a GPU finds its batch size by trial
            many = engine.batch_size * engine.workers
            first += islice(given, many - len(first))
            few = len(first) < many
        yield from self._few(first) if few else self._many(chain(first, given))

    def _few(self, images: Sequence[Given]) -> list[Prediction | RejectedImage]:
        """Decode images beside each other, then compute them with all cores together."""
        threads = min(self._engine.decoders, len(images))
        ready: Iterable[Given | _Ready] = images
        if threads > 1:
            ready = ahead(self._ready, images, threads, len(images))
        return self._predicted(list(ready), few=True)

    def _many(self, images: Iterator[Given]) -> Iterator[Prediction | RejectedImage]:
        """Compute batches beside each other, a few ahead of the reader."""
        engine = self._engine
        size, workers, decoders = engine.batch_size, engine.workers, engine.decoders
        ready: Generator[Given | _Ready] = (each for each in images)
        if engine.decode_ahead:
            ready = ahead(self._ready, images, decoders, max(size, decoders))
        with freed_memory_kept(), closing(ready):
            batches = iter(lambda: list(islice(ready, size)), [])
            for found in ahead(self._predicted, batches, workers, workers + 1):
                yield from found

    def _all(self, images: AnyImage | Iterable[AnyImage]) -> Iterator[Prediction]:
        for each in self.predictions(images):
            if isinstance(each, RejectedImage):
                raise BadImageError(
                    f"{each.path!r} cannot be used ({each.reason}); leave it out, or use "
                    f"'predictions', which goes on with the others"
                )
            yield each

    def _ready(self, given: Given) -> _Ready:
        try:
            return given.path, self._engine.pixels(given.opened())
        except BadImageError as error:
            return given.path, str(error)

    def _predicted(
        self, batch: Sequence[Given | _Ready], *, few: bool = False
    ) -> list[Prediction | RejectedImage]:
        """Return the predictions of some images, and the images that cannot be used."""
        ready = [self._ready(each) if isinstance(each, Given) else each for each in batch]
        usable = [(path, found) for path, found in ready if not isinstance(found, str)]
        paths, pixels = [path for path, _ in usable], [found for _, found in usable]
        predicted = self._engine.predictions(pixels, paths, few=few)[_HEAD] if pixels else []
        following = iter(predicted)
        return [
            RejectedImage(path, found) if isinstance(found, str) else next(following)
            for path, found in ready
        ]
