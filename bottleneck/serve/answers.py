"""Answers of the server in JSON."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

__all__ = ["HEADERS", "error_answer", "json_answer"]

HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-store"}
"""Headers of every answer."""


def json_answer(
    content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an answer.

    Parameters
    ----------
    content : mapping of str to Any
        In JSON types.
    status : int
        Status of HTTP.
    headers : mapping of str to str, optional
        Further headers.

    Returns
    -------
    starlette.responses.JSONResponse
    """
    return JSONResponse(dict(content), status, headers={**HEADERS, **(headers or {})})


def error_answer(
    status: int, sentence: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an answer that tells an error.

    Parameters
    ----------
    status : int
        Status of HTTP.
    sentence : str
        What was given, and what to do.
    headers : mapping of str to str, optional
        Further headers.

    Returns
    -------
    starlette.responses.JSONResponse
    """
    return json_answer({"error": sentence}, status, headers)
