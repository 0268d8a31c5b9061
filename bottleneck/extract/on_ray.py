"""Extraction by workers on the nodes of a Ray cluster."""

import inspect
import json
import logging
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bottleneck.cache import Cache
from bottleneck.errors import BottleneckError, ClusterError, UsageError
from bottleneck.extract.clusters import address_of, connected, import_ray
from bottleneck.extract.compute import Chunk
from bottleneck.extract.outcomes import Part
from bottleneck.extract.passes import Engine
from bottleneck.extract.pools import (
    Pool,
    Reading,
    check_room,
    last_line,
    living_nodes,
    pool_of,
)
from bottleneck.extract.slices import (
    Answer,
    add_outcomes,
    check_unread,
    error_of,
    readable,
    slice_content,
    sliced,
)
from bottleneck.extract.workers import Job, Worker
from bottleneck.images import ImageItem, ImageSet
from bottleneck.settings import StoreSettings
from bottleneck.sources import OBJECTS

__all__ = ["RayEngine"]

_ATTEMPTS = 3
"""Passes of which nothing remains, after which no more workers are started."""


class RayEngine(Engine):
    """Computes images by Ray Data: slices of a pass are mapped by a pool of actors.

    Each actor holds the bases, reads the images itself and writes its own parts into the cache;
    what it returns are counts, and the reasons of images that cannot be used. A slice whose worker
    is killed is lost, and its images are looked for in the cache before they are given out again.

    Parameters
    ----------
    images : ImageSet
        The images.
    cache : Cache
        The cache, which all nodes share.
    settings : StoreSettings
        Address and number of workers.

    Raises
    ------
    MissingExtraError
        Ray is not installed.
    UsageError
        The images are objects of this process, or RAY_ADDRESS is no address.
    ClusterError
        No cluster answers at the address.
    """

    at_once = True

    def __init__(self, images: ImageSet, cache: Cache, settings: StoreSettings) -> None:
        super().__init__()
        self._cache, self._settings = cache, settings
        if any(item.path.startswith(OBJECTS) for item in images.items):
            raise UsageError(
                f"the images of {images.name!r} are objects of this process, which workers of "
                f"`engine=ray` do not see; give their folder, or leave `engine` out"
            )
        ray = import_ray()
        connected_before = ray.is_initialized()
        self._address = None if connected_before else address_of(settings.ray_address)
        self._shared = bool(connected_before or self._address)
        self._stack = ExitStack()
        self._failed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def chunks(
        self,
        parts: Sequence[Part],
        items: Sequence[ImageItem],
        claimed: Iterable[ImageItem] | None = None,
    ) -> Generator[Chunk]:
        """Compute images together and store them, see `Engine`.

        Parameters
        ----------
        parts, items, claimed
            As for `bottleneck.extract.passes.stored_chunks`.

        Yields
        ------
        Chunk
            The number of images that a worker has computed since it last said so.

        Raises
        ------
        ClusterError
            Workers cannot be started, cannot read the images, or are lost again and again.
        BottleneckError
            What a worker has raised.
        """
        chosen = list(items if claimed is None else claimed)
        pool = self._pool(parts)
        slices = sliced(chosen, pool.workers)
        left, before = dict(enumerate(slices)), _files_of(parts)
        lost, reason = set[str](), "its processes ended"
        try:
            with closing(self._answers(parts, slices, pool)) as answers:
                for answer in answers:
                    if "error" in answer:
                        raise error_of(answer)
                    if "unread" in answer:
                        check_unread(slices[answer["number"]], answer)
                    yield Chunk([], answer["images"])
                    if "outcomes" in answer and (own := left.pop(answer["number"], ())):
                        lost |= _settle(parts, own, answer)
        except _PassEndedError as error:
            reason = str(error)
        lost |= {item.digest for each in left.values() for item in each}
        self.lost |= lost
        some = len(lost) < len(chosen) or not _files_of(parts) <= before
        self._failed = 0 if some else self._failed + 1
        if self._failed == _ATTEMPTS:
            raise ClusterError(
                f"all workers on Ray were lost {_ATTEMPTS} times in a row before they had stored "
                f"anything ({reason}); check the memory of the nodes and the logs of the cluster, "
                f"or give fewer `workers`"
            )

    def _pool(self, parts: Sequence[Part]) -> Pool:
        """Connect, unless that has been done, and return the workers that there is room for."""
        ray, workers = import_ray(), self._settings.workers
        if not ray.is_initialized():
            self._stack.close()
            self._stack.enter_context(connected(self._address, workers))
        gpus = any(part.target.base.settings.device != "cpu" for part in parts)
        return pool_of(living_nodes(ray), workers, gpus=gpus)

    def _answers(
        self, parts: Sequence[Part], slices: Sequence[Sequence[ImageItem]], pool: Pool
    ) -> Generator[Answer]:
        """Map slices by a pool of actors, and yield what these answer as they do."""
        device = "auto" if pool.gpus else "cpu"
        job = Job.of(parts, self._cache, device=device, threads=pool.cores)
        contents = [slice_content(number, own, parts) for number, own in enumerate(slices)]
        ray = import_ray()
        with _passed_over(ray, pool.workers):
            try:
                if self._shared:  # with programs that may use its cores
                    check_room(ray, pool)
                mapped = _mapped(ray, contents, job, pool)
                with self._reading(mapped) as reading:
                    for batch in reading.batches(ray, pool):
                        yield from map(json.loads, batch["answer"])
            except BottleneckError:
                raise
            except Exception as error:
                self._stack.close()  # so that no worker of this pass goes on
                raise _PassEndedError(last_line(error)) from error

    @contextmanager
    def _reading(self, dataset: Any) -> Iterator[Reading]:
        """Read a dataset; if that is interrupted, leave the cluster, so that Ray does not go on."""
        reading = Reading(dataset)
        try:
            yield reading
        finally:
            if not reading.end():
                self._stack.close()


class _PassEndedError(Exception):
    """Ray has ended a pass, whose workers may have done some of it; the message is the reason."""


class _Actor:
    """What Ray makes of a `Worker`: it takes and returns columns of texts."""

    def __init__(self, job: Job) -> None:
        self._worker = Worker(job)

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[dict[str, list[str]]]:
        for text in batch["slice"]:
            for answer in self._worker.answers(json.loads(text)):
                yield {"answer": [json.dumps(answer)]}


def _settle(parts: Sequence[Part], items: Sequence[ImageItem], answer: Answer) -> set[str]:
    """Take what a worker has done of a slice, and return the images to be given out again.

    These are the ones that only the worker could not read, be it for a network that failed.
    """
    unread = {digest for each in answer["outcomes"] for digest in each["remarks"]["unread"]}
    lost = readable([item for item in items if item.digest in unread])
    add_outcomes(parts, answer, lost)
    return lost


def _files_of(parts: Sequence[Part]) -> set[Path]:
    """Return the files of parts in the banks of a pass."""
    banks = [part.target.banks[layer] for part in parts for layer in part.task.layers]
    return {path for bank in banks for path in bank.part_files()}


def _mapped(ray: Any, contents: Sequence[Mapping[str, Any]], job: Job, pool: Pool) -> Any:
    """Return the dataset of answers, which is computed as it is read."""
    rows = [{"slice": json.dumps(each)} for each in contents]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    strategy = ray.data.ActorPoolStrategy(
        size=min(pool.workers, len(rows)), max_tasks_in_flight_per_actor=1
    )
    given = {"num_gpus": pool.gpus} if pool.gpus else {}
    # A killed actor is started again, but not its slice, of which some may be stored.
    options: dict[str, Any] = {"max_restarts": -1, "max_task_retries": 0}
    known = inspect.signature(dataset.map_batches).parameters.values()
    if not any(each.kind is each.VAR_KEYWORD for each in known):
        options = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of options that will be others in later versions
        return dataset.map_batches(
            _Actor,
            batch_size=1,
            compute=strategy,
            fn_constructor_kwargs={"job": job},
            num_cpus=pool.cores,
            **given,
            **options,
        )


@contextmanager
def _passed_over(ray: Any, lost: int) -> Iterator[None]:
    """Have answers one by one, so many lost slices passed over, and nothing printed."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    wanted = {
        "enable_progress_bars": False,
        "max_errored_blocks": lost,
        "print_on_execution_start": False,
        "target_max_block_size": 1,
    }
    before = {name: getattr(context, name) for name in wanted if hasattr(context, name)}
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL + 1)
        for name in before:
            setattr(context, name, wanted[name])
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)
