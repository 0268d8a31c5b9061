"""Ray clusters: started here, or found at an address."""

import importlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import joblib
import torch

from bottleneck.errors import ClusterError, UsageError, first_line
from bottleneck.extras import import_extra
from bottleneck.settings import StoreSettings

__all__ = ["address_of", "connected", "import_ray"]

_WHAT, _EXTRA, _LEAST = "`engine=ray`", "ray", (2, 50)
_ADDRESS = "RAY_ADDRESS"
_SECONDS = 4.0
"""Within this time, a server of the cluster must be connected, and within it once more, answer."""
_END_SECONDS = 30.0
"""Within this time, processes that were ended are gone, also on a busy computer."""
_HEADERS, _SETTINGS = 1, 4
_FRAME, _KIND = 9, 3
"""Bytes before the content of a frame of HTTP/2: three of its length, one of its kind, others."""
_REQUEST = (
    b"\x83\x86\x04\x1c/grpc.health.v1.Health/Check\x01\x03ray"
    b"\x0f\x10\x10application/grpc\x00\x02te\x08trailers"
)
_ASKED = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + (bytes(3) + b"\x04" + bytes(5))
    + (len(_REQUEST).to_bytes(3) + b"\x01\x04" + bytes(3) + b"\x01" + _REQUEST)
    + (b"\x00\x00\x05\x00\x01" + bytes(3) + b"\x01" + bytes(5))
)
"""What asks a server of gRPC for its health: settings, headers and an empty message, in HTTP/2."""
_STORE_BYTES = 2**28
_LONGEST_FOLDER = 30
"""Letters of a folder in which Ray can have its sockets."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_raylet_start_wait_time_s": "120",
}
_HERE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_niceness": "0",
}
"""Without a cluster, in its words, Ray binds to 127.0.0.1 only; processes are started when they are
needed, and are no nicer than others."""


def import_ray() -> Any:
    """Import Ray with its data library.

    Returns
    -------
    module

    Raises
    ------
    MissingExtraError
        One of the packages is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # by a thread, after the end
    for module in ("pyarrow", "pandas"):
        import_extra(module, _WHAT, "ray[data]", extra=_EXTRA)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_extra("ray.data", _WHAT, "ray", extra=_EXTRA, least=_LEAST)
        ray: Any = sys.modules["ray"]
        ray.data.DataContext.get_current()  # which warns of its own values when it is made
    return ray


def address_of(given: str | None) -> str | None:
    """Return the address of the cluster to work on, at which one answers.

    Parameters
    ----------
    given : str or None
        The setting, in place of the variable RAY_ADDRESS.

    Returns
    -------
    str or None
        None if Ray is to be started here.

    Raises
    ------
    UsageError
        The value of the variable is no address.
    ClusterError
        None answers within seconds.
    """
    found, name = given or os.environ.get(_ADDRESS), "`ray_address`" if given else _ADDRESS
    if not found or found == "local":
        return None
    try:
        StoreSettings(engine="ray", ray_address=found)
    except UsageError as error:
        raise UsageError(
            f"{str(error).replace('`ray_address`', name)}; correct the variable, or unset it"
        ) from None
    if ":" in found:
        _check_answers(found, name)
    return found


def _check_answers(address: str, name: str) -> None:
    """Make sure that a server of gRPC, as Ray's are, answers at an address."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), _SECONDS) as connection:
            reason, answered = "it is no server of Ray", _is_answered(connection)
    except (OSError, ValueError, OverflowError) as error:
        reason, answered = first_line(error), False
    if not answered:
        raise ClusterError(
            f"no Ray cluster answers at {name} {address!r} ({reason}); start one there with "
            f"'ray start --head', correct the address, or leave {name} out"
        )


def _is_answered(connection: socket.socket) -> bool:
    """Return whether a server answers a request, and not only the beginning of the connection."""
    deadline, received = time.monotonic() + _SECONDS, b""
    connection.sendall(_ASKED)
    while _HEADERS not in (kinds := _kinds(received)):
        if kinds[:1] not in ([], [_SETTINGS]):
            return False
        if (left := deadline - time.monotonic()) <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(left)
        more = connection.recv(2**12)
        if not more:
            return False
        received += more
    return kinds[0] == _SETTINGS


def _kinds(received: bytes) -> list[int]:
    """Return the kinds of the frames that have begun."""
    kinds = []
    while len(received) >= _FRAME:
        kinds.append(received[_KIND])
        received = received[_FRAME + int.from_bytes(received[:_KIND]) :]
    return kinds


@contextmanager
def connected(address: str | None, workers: int | None) -> Iterator[None]:
    """Be connected to a Ray cluster, and end what was started for it.

    Parameters
    ----------
    address : str or None
        That of a cluster; None to start one here. Neither counts if this process is connected.
    workers : int or None
        Number of workers for which one that is started here must have cores.

    Yields
    ------
    None

    Raises
    ------
    ClusterError
        The cluster cannot be started, or does not let this process in.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield
        return
    own: AbstractContextManager[str] = nullcontext("") if address else _folder()
    with _environment(_QUIET | ({} if address else _HERE)), own as folder, _unprinted():
        handler = signal.getsignal(signal.SIGTERM)
        try:
            _begin(ray, address, {} if address else _local(workers, folder))
            if callable(handler):  # else that of Ray ends its processes
                _handle(handler)
            yield
        finally:
            ray.shutdown()
            _handle(handler)


def _begin(ray: Any, address: str | None, options: Mapping[str, Any]) -> None:
    """Connect to a cluster, or start one on 127.0.0.1."""
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        with warnings.catch_warnings(), _silent():
            warnings.simplefilter("ignore")
            with nullcontext() if address else _on_loopback():
                ray.init(address or "local", **quiet, **options)
    except Exception as error:  # Ray raises plain ones, too
        how = "joined" if address else "started"
        what = "run the command on a node of the cluster, with the same version of Ray and Python"
        raise ClusterError(
            f"Ray cannot be {how} ({first_line(error)}); "
            f"{what if address else 'check free memory and disk space'}"
        ) from error


def _local(workers: int | None, folder: str) -> dict[str, Any]:
    """Return options for a cluster on this computer; its folder holds logs and sockets."""
    cores = min(joblib.cpu_count(), torch.get_num_threads())
    return {
        "num_cpus": max(cores, workers or 1),
        "include_dashboard": False,
        "object_store_memory": _STORE_BYTES,
        "_temp_dir": folder,
    }


@contextmanager
def _folder() -> Iterator[str]:
    """Make a folder for Ray's files, whose path is short enough for its sockets.

    At the end, it is removed, and so are processes that have it in their commands: those of a
    cluster that did not start are not ended by Ray.
    """
    usual = tempfile.gettempdir()
    place = usual if len(usual) <= _LONGEST_FOLDER or not Path("/tmp").is_dir() else "/tmp"  # noqa: S108
    folder = tempfile.mkdtemp(prefix="ray-", dir=place)
    try:
        yield folder
    finally:
        deadline = time.monotonic() + _END_SECONDS
        # One that had just been started may make the folder again.
        while (_end_processes(folder) or Path(folder).exists()) and time.monotonic() < deadline:
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.05)


def _end_processes(folder: str) -> bool:
    """End the processes with a folder in their commands; return whether there were any."""
    psutil = importlib.import_module("psutil")  # which comes with Ray
    found = [
        each
        for each in psutil.process_iter(["cmdline"])
        if any(folder in word for word in each.info["cmdline"] or ())
    ]
    for each in found:
        with suppress(psutil.Error):
            each.kill()
    psutil.wait_procs(found, timeout=_END_SECONDS)
    return bool(found)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment where they are not set, for processes that Ray starts."""
    missing = {name: value for name, value in values.items() if name not in os.environ}
    os.environ |= missing
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


@contextmanager
def _unprinted() -> Iterator[None]:
    """Keep what Ray says of ended processes from standard output, which has results."""
    from ray._private import worker

    names, own = vars(worker), "print_to_stdstream"
    before = names.get(own)
    names[own] = lambda *_, **__: None
    try:
        yield
    finally:
        names[own] = before


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let Ray, which may have been imported before, start on 127.0.0.1 only."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _handle(handler: Any) -> None:
    """Set the handler of SIGTERM, which Ray replaces by its own, unless it was not Python's."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _silent() -> Iterator[None]:
    """Discard what Ray's libraries write to standard error while they start."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
