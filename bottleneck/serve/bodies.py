"""The images in the body of a request: its own bytes, or the files of a form."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

__all__ = ["Bodies", "ImageFile"]

_AT_ONCE = 16
"""Requests of the largest size that are held in memory together,"""
_HELD = 2**29
"""and bytes of smaller ones."""
_MOST_FILES = 64
_TOO_MANY = "Too many files"
"""How Starlette begins to say that a form has more than the allowed number."""


@dataclass(frozen=True)
class ImageFile:
    """An image of a request.

    Attributes
    ----------
    name : str or None
        The name that the client has given it.
    data : bytes
        The bytes of its file.
    """

    name: str | None
    data: bytes


class _InMemory(MultiPartParser):
    spool_max_size = 2**40


class Bodies:
    """Reads bodies of requests, within limits.

    Parameters
    ----------
    max_body : int
        Bytes of the largest one.
    timeout : float
        Seconds in which one must have arrived.
    queue : int
        Number of images that may wait, and so the most of a request that ever get an answer.
    """

    def __init__(self, max_body: int, timeout: float, queue: int) -> None:
        self._most, self._timeout = max_body, timeout
        self._files = min(queue, _MOST_FILES)
        self._held = 0

    @asynccontextmanager
    async def images(self, request: Request) -> AsyncGenerator[list[ImageFile], None]:
        """Read the images of a request, whose bytes count as held until the block ends.

        Parameters
        ----------
        request : Request
            Its body is the bytes of an image, or a form of the type ``multipart/form-data``.

        Yields
        ------
        list of ImageFile
            At least one.

        Raises
        ------
        HTTPException
            400 for a body without images, 408 for one that comes too slowly, 413 for one that is
            too large or has too many files, 429 if too many bytes are held.
        """
        held = 0
        content = bytearray()
        try:
            try:
                async with asyncio.timeout(self._timeout):
                    async for chunk in request.stream():
                        held += len(chunk)
                        self._held += len(chunk)
                        self._check(held)
                        content += chunk
            except TimeoutError:
                raise HTTPException(
                    408, f"the request had not arrived after {self._timeout:g} s; send it faster"
                ) from None
            yield await self._parsed(request, bytes(content))
        finally:
            self._held -= held

    def _check(self, held: int) -> None:
        if held > self._most:
            raise HTTPException(
                413,
                f"the request has more bytes than the limit of {self._most:,}; send fewer or "
                f"smaller images",
            )
        if self._held > max(_AT_ONCE * self._most, _HELD):
            raise HTTPException(
                429, "too many large requests are waiting; try again later", {"retry-after": "1"}
            )

    async def _parsed(self, request: Request, content: bytes) -> list[ImageFile]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "multipart/form-data":
            if not content:
                raise HTTPException(400, "the request has no body; send the bytes of an image")
            return [ImageFile(None, content)]

        async def once() -> AsyncGenerator[bytes, None]:
            yield content

        try:
            form = await _InMemory(request.headers, once(), max_files=self._files).parse()
        except (MultiPartException, FormParserError) as error:  # early releases raise the latter
            reason = error.message if isinstance(error, MultiPartException) else str(error)
            if reason.startswith(_TOO_MANY):
                raise HTTPException(
                    413,
                    f"the request has too many files; send at most {self._files} at a time",
                ) from error
            raise HTTPException(400, f"the form cannot be read ({reason})") from error
        files = [each for _, each in form.multi_items() if isinstance(each, UploadFile)]
        if not files:
            raise HTTPException(
                400, "the form has no file; send images as files, such as curl -F image=@cat.jpg"
            )
        found = [ImageFile(each.filename or None, await each.read()) for each in files]
        await form.close()
        return found
