"""uvicorn's server, with connections that are closed if no request comes."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from bottleneck.serve.answers import error_answer
from bottleneck.serve.metrics import Metrics
from bottleneck.settings import ServeSettings

__all__ = ["Server"]

_SECONDS = 10.0
_IDLE_SECONDS = 15
_OTHERS = 128
"""Connections beside those of images that wait."""
_FULL = error_answer(
    503, "the server has too many connections; try again later", {"retry-after": "1"}
)
_NO_HTTP = error_answer(400, "the request is not HTTP/1.1; see /docs for what there is")


class Server(uvicorn.Server):
    """A server that says nothing but errors, and tells when it listens.

    Parameters
    ----------
    app : starlette.applications.Starlette
        The application; see `bottleneck.serve.app.make_app`.
    settings : ServeSettings
        Its limits.
    started : callable
        Called when clients can connect.
    """

    def __init__(
        self, app: Starlette, settings: ServeSettings, started: Callable[[], object]
    ) -> None:
        self._most = settings.queue + _OTHERS
        config = uvicorn.Config(
            _Counted(app, self._is_full, app.state.metrics),
            interface="asgi3",
            http=_Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=int(2 * settings.timeout) + 5,
        )
        super().__init__(config)
        self._tell_started = started

    def _is_full(self) -> bool:
        return len(self.server_state.connections) >= self._most

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and tell it."""
        await super().startup(sockets)
        self._tell_started()


@dataclass(frozen=True)
class _Counted:
    """The application, unless there are too many connections; each answer is counted."""

    app: ASGIApp
    is_full: Callable[[], bool]
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.answered(scope["path"], message["status"])
            await send(message)

        full = scope["type"] == "http" and self.is_full()
        await (_FULL if full else self.app)(scope, receive, counted)


class _Protocol(H11Protocol):
    """A connection whose client must send the head of a request in some seconds.

    Bodies have a time limit of their own, see `bottleneck.serve.bodies.Bodies`.
    """

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._limit = self.loop.call_later(_SECONDS, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a request's head, but not for ever."""
        super().data_received(data)
        if self._is_asked:
            self._forget()
        elif self._limit is None:
            self._limit = self.loop.call_later(_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._forget()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words
        """Answer what is not HTTP in the form of other errors."""
        headers = [*_NO_HTTP.raw_headers, (b"connection", b"close")]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=bytes(_NO_HTTP.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        cast(_Counted, self.app).metrics.answered("", 400)

    @property
    def _is_asked(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _forget(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _give_up(self) -> None:
        self._limit = None
        if not self._is_asked and not self.transport.is_closing():
            self.transport.abort()
