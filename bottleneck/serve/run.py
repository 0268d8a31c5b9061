"""Start a server: its address, its token, and an orderly end."""

import asyncio
import errno
import ipaddress
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bottleneck.errors import UsageError
from bottleneck.extras import import_extra
from bottleneck.settings import ServeSettings

if TYPE_CHECKING:
    from bottleneck.heads import Head
    from bottleneck.serve.batching import Answerer

__all__ = ["bind", "serve_answers", "serve_files", "serve_heads"]

_NEEDED = {
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}
_BACKLOG = 2048
"""Connections that wait to be accepted, as uvicorn has it."""
_TOKEN = "BOTTLENECK_TOKEN"  # noqa: S105 - the name of a variable


def bind(settings: ServeSettings) -> tuple[socket.socket, ServeSettings]:
    """Take the address of a server, before anything is loaded.

    Parameters
    ----------
    settings : ServeSettings
        The address, and the token.

    Returns
    -------
    (socket.socket, ServeSettings)
        The socket, which already listens: who connects waits until the server runs; and the
        settings, with the token.

    Raises
    ------
    MissingExtraError
        A library of the extra ``serve`` is not installed.
    UsageError
        The address does not exist, its port is in use, or it needs a token.
    """
    for module, package in _NEEDED.items():
        import_extra(module, "a server", package, extra="serve")
    if settings.token is None and os.environ.get(_TOKEN):
        settings = replace(settings, token=os.environ[_TOKEN])
    host, port = settings.host, settings.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"`host` {host!r} is not an address of this machine ({reason}); give 127.0.0.1, or "
            f"0.0.0.0 for all of its addresses"
        ) from error
    family, kind, protocol, _, address = found[0]
    if settings.token is None and not ipaddress.ip_address(str(address[0])).is_loopback:
        raise UsageError(
            f"`host={host}` can be reached from other machines and needs `token`; give a secret "
            f"that clients must send, such as one that 'openssl rand -hex 32' prints"
        )
    taken = socket.socket(family, kind, protocol)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(_BACKLOG)  # else another server could take the port, too, until it listens
    except OSError as error:
        taken.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"port {port} of {host} is in use; give another with `port`, or 0 for any that is "
                f"free"
            ) from error
        raise UsageError(
            f"port {port} of {host!r} cannot be used ({error.strerror}); give another `port` or "
            f"`host`"
        ) from error
    return taken, settings


def serve_heads(
    heads: "Mapping[str, tuple[Path, Head]]",
    settings: ServeSettings,
    taken: socket.socket,
    *,
    ready: Callable[[str], object] | None = None,
) -> None:
    """Serve heads until the process is told to end, and answer what has begun by then.

    Parameters
    ----------
    heads : mapping of str to (Path, Head)
        By name, the folder of each head and the head; at least one.
    settings : ServeSettings
        The settings from `bind`.
    taken : socket.socket
        The socket from `bind`; it is closed in the end.
    ready : callable, optional
        Called with the server's address, when it answers.

    Raises
    ------
    UsageError, DataError, WeightsError
        As for `bottleneck.serve.answering.Heads`.
    """
    from bottleneck.extract.lanes import freed_memory_kept
    from bottleneck.serve.answering import Heads

    with taken, freed_memory_kept():
        serve_answers(Heads(heads, settings), settings, taken, ready=ready)


def serve_files(
    files: Mapping[str, Path],
    settings: ServeSettings,
    taken: socket.socket,
    *,
    ready: Callable[[str], object] | None = None,
) -> None:
    """Serve exported ``.onnx`` files through ONNX Runtime, as `serve_heads` serves heads.

    Parameters
    ----------
    files : mapping of str to Path
        By name, at least one.
    settings, taken, ready
        As for `serve_heads`.

    Raises
    ------
    UsageError, DataError, MissingExtraError
        As for `bottleneck.serve.exported.Files`.
    """
    from bottleneck.serve.exported import Files

    with taken:
        serve_answers(Files(files, settings), settings, taken, ready=ready)


def serve_answers(
    answerer: "Answerer",
    settings: ServeSettings,
    taken: socket.socket,
    *,
    ready: Callable[[str], object] | None = None,
) -> None:
    """Serve what computes images, as `serve_heads` serves heads.

    Parameters
    ----------
    answerer : Answerer
        Computes images and describes itself.
    settings, taken, ready
        As for `serve_heads`.
    """
    from bottleneck.serve.app import make_app
    from bottleneck.serve.connections import Server

    def started() -> None:
        host, port = taken.getsockname()[:2]
        if ready:
            ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    server = Server(make_app(answerer, settings), settings, started)
    asyncio.run(server.serve(sockets=[taken]))
