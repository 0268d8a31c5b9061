"""Types of the values of records, with their checks."""

import math
from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field

from bottleneck.settings import values as choices


def among(choices: Any) -> AfterValidator:
    """Return a validator that a text is one of a `Literal`'s values.

    Parameters
    ----------
    choices : Any
        A `Literal` of texts.

    Returns
    -------
    AfterValidator
        Raises `ValueError` for any other text.
    """

    def check(value: str) -> str:
        if value not in get_args(choices):
            raise ValueError(f"one of {', '.join(map(repr, get_args(choices)))}")
        return value

    return AfterValidator(check)


def _is_finite(value: Any) -> Any:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict | list):
            waiting.extend(each.values() if isinstance(each, dict) else each)
        elif isinstance(each, float) and not math.isfinite(each):
            raise ValueError("finite numbers")
    return value


def _is_time(value: str) -> str:
    try:
        aware = datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        raise ValueError("a time in ISO format, with its zone")
    return value


Json = Annotated[Any, AfterValidator(_is_finite)]
"""Any JSON value with finite numbers."""
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
BankName = Annotated[str, Field(pattern=r"^[^/\\]+-[0-9a-f]{12}$")]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Size = Annotated[int, Field(ge=1)]
Pixels = tuple[Size, Size]
Time = Annotated[str, AfterValidator(_is_time)]
Pool = Annotated[str, among(choices.Pool)]
Axes = Annotated[str, among(Literal["C", "CHW", "HWC", "TC", ""])]
"""Possible axes of a stored row; the last for unknown axes."""
Storage = Annotated[str, among(choices.Dtype)]
Computed = Annotated[str, among(Literal["fp32", "bf16", "fp16", ""])]
Interpolation = Annotated[str, among(choices.Interpolation)]
