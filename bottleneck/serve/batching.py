"""Dynamic batching: images that wait are computed together as soon as a worker is free."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from bottleneck.records import Prediction

__all__ = ["Answer", "Answerer", "Batcher", "QueueFullError"]

Answer = Mapping[str, Prediction]
"""The predictions of one image, by head."""


class Answerer(Protocol):
    """What computes the images of a server."""

    @property
    def workers(self) -> int:
        """Number of threads that may call `answers` at the same time."""

    @property
    def decoders(self) -> int:
        """Number of threads that may call `ready` at the same time."""

    @property
    def batch_size(self) -> int:
        """Number of images that each of these threads takes at a time."""

    @property
    def few(self) -> int:
        """Number of images from which threads beside each other are faster than one at a time."""

    def begin_thread(self, *, few: bool) -> None:
        """Prepare a thread in which `answers` will be called, or `ready` if it is not for few."""

    def ready(self, data: bytes) -> Any:
        """Decode and preprocess the bytes of an image; raises `BadImageError` with the reason."""

    def answers(self, images: Sequence[Any], *, few: bool) -> list[Answer]:
        """Return the predictions of images from `ready`, in order."""

    def facts(self) -> list[dict[str, Any]]:
        """Describe each head in JSON types, without paths."""


class QueueFullError(Exception):
    """More images wait than may."""


@dataclass(eq=False)
class _Waiting:
    """An image that waits for its predictions."""

    image: Any
    found: "asyncio.Future[Answer]"


class Batcher:
    """Computes images of all requests in common batches.

    A batch begins as soon as a worker is free, with what waits then, so that nothing waits for a
    batch to be full. If nothing is being computed and few images wait, all cores compute them
    together; otherwise each worker takes a batch of its own.

    Parameters
    ----------
    answerer : Answerer
        Computes the images.
    queue : int
        Number of images that may wait, or be decoded.
    on_batch : callable
        Called with the number of images of each batch.
    """

    def __init__(self, answerer: Answerer, queue: int, on_batch: Callable[[int], object]) -> None:
        self._answerer, self._queue, self._on_batch = answerer, queue, on_batch
        self._waiting: deque[_Waiting] = deque()
        self._entered = 0
        self._running: set[asyncio.Task[None]] = set()
        self._all_at_it = False

        def threads(count: int, *, few: bool = False) -> ThreadPoolExecutor:
            return ThreadPoolExecutor(count, initializer=lambda: answerer.begin_thread(few=few))

        self._decoders, self._workers = threads(answerer.decoders), threads(answerer.workers)
        self._one = threads(1, few=True)

    @property
    def entered(self) -> int:
        """Number of images that are decoded or wait."""
        return self._entered

    async def answer(self, files: Sequence[bytes]) -> "list[Answer | Exception]":
        """Return the predictions of images.

        Parameters
        ----------
        files : sequence of bytes
            The images of a request.

        Returns
        -------
        list of mapping or Exception
            In order: by head, or a `BadImageError` for an image that cannot be used.

        Raises
        ------
        QueueFullError
            More images would wait than may.
        """
        if self._entered + len(files) > self._queue:
            raise QueueFullError
        self._entered += len(files)
        tasks = [asyncio.ensure_future(self._one_answer(data)) for data in files]
        for each in tasks:
            each.add_done_callback(self._leave)
        try:
            return await asyncio.gather(*tasks, return_exceptions=True)  # type: ignore[return-value]
        finally:
            for each in tasks:
                each.cancel()  # of a request that has taken too long

    async def _one_answer(self, data: bytes) -> Answer:
        loop = asyncio.get_running_loop()
        image = await loop.run_in_executor(self._decoders, self._answerer.ready, data)
        waiting = _Waiting(image, loop.create_future())
        self._waiting.append(waiting)
        self._begin()
        return await waiting.found

    def _leave(self, _: "asyncio.Task[Answer]") -> None:
        self._entered -= 1

    def _begin(self) -> None:
        """Give waiting images to free workers."""
        while self._waiting and not self._all_at_it and len(self._running) < self._answerer.workers:
            few = not self._running and len(self._waiting) < self._answerer.few
            most = len(self._waiting) if few else self._answerer.batch_size
            batch = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            batch = [each for each in batch if not each.found.done()]  # whose time is over
            if batch:
                self._all_at_it = few
                task = asyncio.ensure_future(self._compute(batch, few=few))
                self._running.add(task)

    async def _compute(self, batch: Sequence[_Waiting], *, few: bool) -> None:
        images = [each.image for each in batch]
        self._on_batch(len(batch))
        pool = self._one if few else self._workers
        try:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(pool, partial(self._answers, images, few=few))
            for each, answer in zip(batch, answers, strict=True):
                if each.found.done():
                    continue
                if isinstance(answer, Exception):
                    each.found.set_exception(answer)
                else:
                    each.found.set_result(answer)
        finally:
            self._all_at_it = False
            task = asyncio.current_task()
            self._running -= {task} if task else set()
            self._begin()

    def _answers(self, images: Sequence[Any], *, few: bool) -> "list[Answer | Exception]":
        """Return the answers; if one image makes its batch fail, those of each alone."""
        try:
            return list(self._answerer.answers(images, few=few))
        except Exception as error:  # noqa: BLE001 - its request tells it
            if len(images) == 1:
                return [error]
            return [self._answers([each], few=few)[0] for each in images]

    def close(self) -> None:
        """End the threads, when they have done what they do."""
        for pool in (self._decoders, self._workers, self._one):
            pool.shutdown(cancel_futures=True)
