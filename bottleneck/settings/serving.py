"""Settings for serving heads."""

from typing import Annotated

from annotated_doc import Doc
from pydantic import AfterValidator, Field

from bottleneck.errors import UsageError
from bottleneck.fields import Option, settings
from bottleneck.settings import values
from bottleneck.settings.results import PredictorSettings

__all__ = ["ServeSettings"]

_SHORTEST_TOKEN = 16


def _token(given: str) -> str:
    """Refuse a token that can be guessed, or not be sent in a header."""
    if len(given) < _SHORTEST_TOKEN or not given.isascii() or not given.isprintable():
        raise UsageError(
            f"`token` must have at least {_SHORTEST_TOKEN} letters, digits and signs of ASCII; "
            f"'openssl rand -hex 32' prints one"
        )
    return given


@settings("Server", kw_only=True)
class ServeSettings(PredictorSettings):
    """Settings for serving heads over HTTP."""

    host: Annotated[
        str, Doc("Address to listen on; others than this machine's own need `token`.")
    ] = "127.0.0.1"
    port: Annotated[
        Annotated[int, Field(ge=0, le=65535)], Doc("Port to listen on; 0 for any that is free.")
    ] = 8000
    token: Annotated[
        Annotated[str, AfterValidator(_token)] | None,
        Doc(
            "Secret that clients must send; by default that of the environment variable "
            "BOTTLENECK_TOKEN."
        ),
    ] = None
    max_body: Annotated[
        Annotated[values.ByteSize, Field(ge=1)], Doc("Size of the largest request.")
    ] = 32_000_000
    max_pixels: Annotated[values.Count, Doc("Pixels of the largest image that is decoded.")] = (
        50_000_000
    )
    max_bytes: Annotated[values.MaxBytes, Option(hidden=True)] = None
    queue: Annotated[
        values.Count, Doc("Images that may wait; further ones are refused with status 429.")
    ] = 256
    timeout: Annotated[
        values.Positive,
        Doc("Seconds in which a request must have arrived, and then must be answered."),
    ] = 30.0
