"""Figures of a server, in Prometheus' text format."""

from collections.abc import Callable, Collection

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["Metrics"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_OTHER = "other"
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counts requests, images and batches; the memory and time of the process come with them.

    Parameters
    ----------
    waiting : callable
        Returns the number of images that wait.
    paths : collection of str
        The paths of addresses; requests of any other are counted together.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, waiting: Callable[[], int], paths: Collection[str]) -> None:
        self._paths = paths
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._requests = Counter(
            "bottleneck_requests",
            "Requests by path and status; without a path, what is not HTTP.",
            ["path", "status"],
            registry=self._registry,
        )
        self.images = Counter(
            "bottleneck_images",
            "Images: predicted, rejected as no usable image, or failed.",
            ["result"],
            registry=self._registry,
        )
        self.batches = Histogram(
            "bottleneck_batch_images",
            "Images of the batches that were computed.",
            buckets=_SIZES,
            registry=self._registry,
        )
        self.seconds = Histogram(
            "bottleneck_predict_seconds",
            "Seconds from the last byte of a request to its answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        gauge = Gauge(
            "bottleneck_waiting_images",
            "Images that are decoded or wait to be computed.",
            registry=self._registry,
        )
        gauge.set_function(waiting)

    def answered(self, path: str, status: int) -> None:
        """Count the answer of a request.

        Parameters
        ----------
        path : str
            What it asked for; empty for a request that is not HTTP.
        status : int
            Status of the answer.
        """
        known = not path or path in self._paths
        self._requests.labels(path if known else _OTHER, status).inc()

    def text(self) -> bytes:
        """Return all figures.

        Returns
        -------
        bytes
        """
        return generate_latest(self._registry)
