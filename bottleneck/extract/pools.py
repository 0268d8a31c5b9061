"""Workers on a Ray cluster: for how many of them its nodes have room, and whether any is left."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from bottleneck.errors import ClusterError, UsageError, counted, first_line

__all__ = ["Pool", "Reading", "check_room", "last_line", "living_nodes", "pool_of"]

_ROOM_SECONDS = 120.0
"""Within this time, a worker must find room, and its process must start; or another node join."""
_LOOK_SECONDS = 5.0
_END_SECONDS = 4.0


@dataclass(frozen=True)
class Pool:
    """The workers of a pass.

    Attributes
    ----------
    workers : int
        Number of workers.
    cores, gpus : int
        What each of them is given.
    """

    workers: int
    cores: int
    gpus: int

    def fits(self, node: Mapping[str, float]) -> bool:
        """Return whether a node with these resources has room for a worker."""
        return node.get("CPU", 0) >= self.cores and node.get("GPU", 0) >= self.gpus


def living_nodes(ray: Any) -> list[dict[str, float]]:
    """Return the resources of the nodes that have not been lost.

    Parameters
    ----------
    ray : module
        Ray, connected to a cluster.

    Returns
    -------
    list of dict
        Of each node: its number of ``CPU`` and of ``GPU``, among others.
    """
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def pool_of(nodes: Iterable[Mapping[str, float]], workers: int | None, *, gpus: bool) -> Pool:
    """Return the workers that the nodes of a cluster have room for.

    Parameters
    ----------
    nodes : iterable of mapping of str to float
        Resources of each node: its number of ``CPU`` and of ``GPU``.
    workers : int, optional
        Number of workers; by default one for each GPU, or for each node.
    gpus : bool
        Whether to use GPUs, if there are any.

    Returns
    -------
    Pool

    Raises
    ------
    UsageError
        The cluster has too few GPUs or cores.
    ClusterError
        It has none.
    """
    found = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
    sizes = [(cores, min(own, cores) if gpus else 0) for cores, own in found]  # a core for each
    if total := sum(own for _, own in sizes):
        if workers and workers > total:
            raise UsageError(
                f"`workers` is {workers}, but the Ray cluster has {counted(total, 'GPU')}; give "
                f"`workers` of at most {total}"
            )
        return Pool(workers or total, min(cores // own for cores, own in sizes if own), 1)
    cores = [own for own, _ in sizes if own]
    if not cores:
        raise ClusterError("the Ray cluster has no cores for workers; add nodes to it")
    wanted = workers or len(cores)
    for each in range(max(cores), 0, -1):
        if sum(own // each for own in cores) >= wanted:
            return Pool(wanted, each, 0)
    raise UsageError(
        f"`workers` is {wanted}, but the Ray cluster has {counted(sum(cores), 'core')}; give "
        f"`workers` of at most {sum(cores)}"
    )


def check_room(ray: Any, pool: Pool) -> None:
    """Make sure that a worker finds room now, and that its process can load this package.

    Parameters
    ----------
    ray : module
        Ray, connected to a cluster.
    pool : Pool
        The workers.

    Raises
    ------
    ClusterError
        None finds room within two minutes, or its process fails.
    """
    needs = [counted(pool.cores, "core"), *([counted(pool.gpus, "GPU")] if pool.gpus else [])]
    more = "" if pool.gpus else ", or give more `workers`, each of which needs fewer cores"
    tried = ray.remote(num_cpus=pool.cores, num_gpus=pool.gpus)(_is_loaded).remote()
    try:
        ray.get(tried, timeout=_ROOM_SECONDS)
    except ray.exceptions.RayTaskError as error:
        raise ClusterError(
            f"a worker on Ray cannot load this package ({last_line(error)}); install the same "
            f"version on all nodes"
        ) from error
    except ray.exceptions.GetTimeoutError as error:
        ray.cancel(tried)
        if not _has_nodes(ray, pool):
            raise _lost() from error
        raise ClusterError(
            f"no worker on Ray found room within {_ROOM_SECONDS:.0f} s: each needs "
            f"{' and '.join(needs)} of one node, and other programs use them; wait until these "
            f"have ended, as 'ray status' shows{more}"
        ) from error


class Reading:
    """Reads a dataset that workers compute, for as long as there are nodes for them.

    Ray itself waits for ever where all nodes have been lost, as others may join. Therefore another
    thread waits for Ray.

    Parameters
    ----------
    dataset : ray.data.Dataset
        The dataset.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset, self._read = dataset, SimpleQueue[Any]()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read_all, daemon=True)
        self._thread.start()

    def _read_all(self) -> None:
        """Put the batches, and then None or the error that ended them."""
        try:
            for batch in self._dataset.iter_batches(batch_size=None, prefetch_batches=0):
                if self._ended.is_set():
                    return
                self._read.put(batch)
            self._read.put(None)
        except Exception as error:  # noqa: BLE001 - raised where it is read
            self._read.put(error)

    def batches(self, ray: Any, pool: Pool) -> Iterator[Mapping[str, Any]]:
        """Yield batches as they are computed.

        Parameters
        ----------
        ray, pool : module, Pool
            As for `check_room`.

        Yields
        ------
        mapping
            Names of columns to their values.

        Raises
        ------
        ClusterError
            For two minutes, no node has had room for a worker.
        Exception
            What Ray raises.
        """
        seen = time.monotonic()
        while True:
            try:
                batch = self._read.get(timeout=_LOOK_SECONDS)
            except Empty:
                if _has_nodes(ray, pool):
                    seen = time.monotonic()
                elif time.monotonic() - seen > _ROOM_SECONDS:
                    raise _lost() from None
                continue
            if batch is None:
                return
            if isinstance(batch, Exception):
                raise batch
            yield batch

    def end(self) -> bool:
        """Read no more; return whether Ray has stopped, as it does after the next batch."""
        self._ended.set()
        self._thread.join(_END_SECONDS)
        return not self._thread.is_alive()


def _has_nodes(ray: Any, pool: Pool) -> bool:
    """Return whether a worker would have room, if nothing else ran."""
    return any(pool.fits(node) for node in living_nodes(ray))


def _lost() -> ClusterError:
    return ClusterError(
        f"all nodes of the Ray cluster on which a worker had room were lost, and none has joined "
        f"for {_ROOM_SECONDS:.0f} s; add nodes, and run the same command again to continue"
    )


def _is_loaded() -> bool:
    """Return that the process that was told to call this function has loaded this package."""
    return True


def last_line(error: Exception) -> str:
    """Return what an error of Ray says, the last line of a traceback.

    Parameters
    ----------
    error : Exception
        The error.

    Returns
    -------
    str
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else first_line(error)
