"""The application: its addresses, and what each answers."""

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

import bottleneck
from bottleneck.errors import BadImageError, did_you_mean, is_out_of_memory, some_of, unquoted
from bottleneck.records import Prediction
from bottleneck.serve.answers import HEADERS, error_answer, json_answer
from bottleneck.serve.batching import Answerer, Batcher, QueueFullError
from bottleneck.serve.bodies import Bodies, ImageFile
from bottleneck.serve.metrics import Metrics
from bottleneck.serve.openapi import described
from bottleneck.serve.pages import docs_page, drop_page
from bottleneck.settings import ServeSettings

__all__ = ["make_app"]

_log = logging.getLogger(__name__)
_SHORT = "the server has not enough memory; send fewer images at once, or try again later"
_FAILED = "the server failed; its own output says why"
_PAGE_HEADERS = {**HEADERS, "x-frame-options": "DENY", "referrer-policy": "no-referrer"}

_PARAMETERS = ("head", "top")
_PORT = re.compile(r":\d*$")

_Handler = Callable[[Request], Awaitable[Response]]


def make_app(answerer: Answerer, settings: ServeSettings) -> Starlette:
    """Return the application that serves heads.

    Parameters
    ----------
    answerer : Answerer
        Computes images; see `bottleneck.serve.answering.Heads`.
    settings : ServeSettings
        Limits, and the token that clients must send.

    Returns
    -------
    starlette.applications.Starlette
        Its `state.metrics` are to count each answer, see `bottleneck.serve.metrics.Metrics`.
    """
    return _Server(answerer, settings).app


class _Server:
    def __init__(self, answerer: Answerer, settings: ServeSettings) -> None:
        self._heads = answerer.facts()
        self._digests = {each["head"]: each["digest"] for each in self._heads}
        self._timeout, self._name = settings.timeout, settings.host.lower()
        self._token = _hashed(settings.token) if settings.token else None
        self._limits = {
            name: getattr(settings, name) for name in ("max_body", "max_pixels", "queue", "timeout")
        }
        self._bodies = Bodies(settings.max_body, settings.timeout, settings.queue)
        description = described()
        drop, docs = drop_page(), docs_page(description)

        async def health(_: Request) -> Response:
            return json_answer({"status": "ok"})

        async def openapi(_: Request) -> Response:
            return json_answer(description)

        async def dropping(_: Request) -> Response:
            return HTMLResponse(drop, headers=_PAGE_HEADERS)

        async def documentation(_: Request) -> Response:
            return HTMLResponse(docs, headers=_PAGE_HEADERS)

        routes = [
            Route("/", self._whole(dropping)),
            Route("/docs", self._whole(documentation)),
            Route("/openapi.json", self._whole(openapi)),
            Route("/health", self._whole(health)),
            Route("/info", self._whole(self._secret(self._info))),
            Route("/metrics", self._whole(self._secret(self._figures))),
            Route("/predict", self._whole(self._secret(self._predict)), methods=["POST"]),
        ]
        paths = frozenset(each.path for each in routes)
        self._metrics = Metrics(lambda: self._batcher.entered, paths)
        self._batcher = Batcher(answerer, settings.queue, self._metrics.batches.observe)
        self.app = Starlette(
            routes=routes,
            exception_handlers={HTTPException: self._refused},
            lifespan=self._lifespan,
        )
        self.app.state.metrics = self._metrics
        self.app.router.redirect_slashes = False  # to an address that a header names

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> Any:
        yield
        self._batcher.close()

    def _whole(self, handler: _Handler) -> _Handler:
        """Turn the errors of a handler into answers."""

        async def handle(request: Request) -> Response:
            try:
                self._check_host(request)
                return await handler(request)
            except HTTPException as error:
                return await self._refused(request, error)
            except ClientDisconnect:
                return error_answer(499, "the client has gone")
            except Exception as error:  # noqa: BLE001 - the log has it, the client a sentence
                _log.exception("a request failed")
                short = is_out_of_memory(error)
                return error_answer(503, _SHORT) if short else error_answer(500, _FAILED)

        return handle

    async def _refused(self, request: Request, error: Any) -> Response:
        """Tell an error of HTTP as JSON."""
        asked = f"{request.method} {request.url.path}"[:200]
        sentence = error.detail
        if sentence == HTTPException(error.status_code).detail:  # the router's, not one of ours
            sentence = f"there is no {asked}; /docs lists what there is"
        return error_answer(error.status_code, sentence, error.headers)

    def _check_host(self, request: Request) -> None:
        """Without a token, refuse pages of other sites whose name was made to lead here."""
        host = request.headers.get("host", "localhost")
        if self._token is None and not self._is_here(_PORT.sub("", host).strip("[]").lower()):
            raise HTTPException(
                421,
                f"the server is asked as {host[:100]!r}, but answers as localhost only; use its "
                f"address, or start it with a token",
            )

    def _is_here(self, name: str) -> bool:
        with suppress(ValueError):
            return ipaddress.ip_address(name).is_loopback
        return name in {"localhost", self._name}

    def _secret(self, handler: _Handler) -> _Handler:
        """Ask for the token, if there is one."""

        async def handle(request: Request) -> Response:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            right = self._token is None or hmac.compare_digest(_hashed(given.strip()), self._token)
            if not right or (self._token is not None and scheme.lower() != "bearer"):
                raise HTTPException(
                    401,
                    "the token is missing or wrong; send the header 'Authorization: Bearer TOKEN'",
                    {"www-authenticate": "Bearer"},
                )
            return await handler(request)

        return handle

    async def _info(self, _: Request) -> Response:
        return json_answer(
            {"version": bottleneck.__version__, "heads": self._heads, "limits": self._limits}
        )

    async def _figures(self, _: Request) -> Response:
        kind = self._metrics.content_type
        return Response(self._metrics.text(), headers={**HEADERS, "content-type": kind})

    async def _predict(self, request: Request) -> Response:
        names, top = self._asked(request)
        if self._batcher.entered >= self._limits["queue"]:
            raise _busy()
        async with self._bodies.images(request) as files:
            return await self._answered(files, names, top)

    async def _answered(
        self, files: Sequence[ImageFile], names: Sequence[str], top: int | None
    ) -> Response:
        """Answer with the predictions of images."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                answers = await self._batcher.answer([file.data for file in files])
        except QueueFullError:
            raise _busy() from None
        except TimeoutError:
            self._metrics.images.labels("failed").inc(len(files))
            raise HTTPException(
                503,
                f"there was no answer after {self._timeout:g} s; try again later",
                {"retry-after": "5"},
            ) from None
        self._metrics.seconds.observe(time.monotonic() - started)
        for answer in answers:
            if isinstance(answer, Exception) and not isinstance(answer, BadImageError):
                self._metrics.images.labels("failed").inc(len(files))
                raise answer
        told = list(self._told(files, answers, names, top))
        rejected = [each for each in told if "error" in each]
        self._metrics.images.labels("rejected").inc(len(rejected))
        self._metrics.images.labels("predicted").inc(len(files) - len(rejected))
        if len(rejected) < len(files):
            return json_answer({"predictions": told})
        reasons = some_of(dict.fromkeys(each["error"] for each in rejected), "; ", 3)
        return json_answer({"error": f"no image can be used: {reasons}", "predictions": told}, 422)

    def _asked(self, request: Request) -> tuple[Sequence[str], int | None]:
        """Return the heads and the number of classes that a request asks for."""
        query = request.query_params
        if unknown := [each for each in query if each not in _PARAMETERS]:
            near = did_you_mean(unknown[0], _PARAMETERS) or "; expected 'head' or 'top'"
            raise HTTPException(400, f"there is no parameter {unknown[0][:100]!r}{near}")
        names = query.getlist("head") or list(self._digests)
        if unknown := [each for each in names if each not in self._digests]:
            known = some_of(map(repr, self._digests))
            raise HTTPException(404, f"no head {unknown[0][:100]!r} is served; expected {known}")
        top = query.get("top", "")
        if top and not re.fullmatch("[1-9][0-9]{0,7}", top):
            raise HTTPException(400, f"top must be a number of at least 1, got {top[:20]!r}")
        return names, int(top) if top else None

    def _told(
        self,
        files: Sequence[ImageFile],
        answers: Sequence[Mapping[str, Prediction] | Exception],
        names: Sequence[str],
        top: int | None,
    ) -> Iterator[dict[str, Any]]:
        """Yield what is told of each image, for each head."""
        for number, (file, answer) in enumerate(zip(files, answers, strict=True)):
            facts = {"image": number, "file": file.name}
            if isinstance(answer, Exception):
                yield {**facts, "error": _for_clients(answer)}
                continue
            for name in names:
                found = answer[name]
                yield {
                    **facts,
                    "head": name,
                    "digest": self._digests[name],
                    "class": found.label,
                    "probabilities": found.likeliest(top) if top else found.probabilities,
                    "novelty": found.novelty,
                }


def _busy() -> HTTPException:
    return HTTPException(429, "too many images are waiting; try again later", {"retry-after": "1"})


def _hashed(token: str) -> bytes:
    """Return what is compared, of one length whatever the token's."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _for_clients(error: Exception) -> str:
    """Return an error's message, without advice that only whoever runs the server can follow."""
    return re.sub(r"raise it with \w+", "send a smaller one", unquoted(error))
