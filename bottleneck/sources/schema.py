"""Which columns of Parquet and Arrow files have images, and what tells of them."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from bottleneck.errors import DataError, some_of

__all__ = ["LABELS", "PATHS", "Columns", "columns_of", "has_dictionaries"]

PATHS = ("file_name", "filename", "file", "image_path", "file_path", "filepath", "image", "img")
"""Names of columns of paths in tables without a column ``path``."""
LABELS = ("labels", "class", "category", "target", "fine_label", "y")
"""Names of columns of classes in tables without a column ``label``."""
_IMAGES = ("image", "img", "picture", "photo", "bytes", "path", *PATHS)
_OTHERS = ("split", "group")
_BYTES = ("is_binary", "is_large_binary", "is_binary_view")
_TEXTS = ("is_string", "is_large_string", "is_string_view")


class Columns(NamedTuple):
    """Names of columns; None where there is no such column.

    Attributes
    ----------
    image, label, split, group : str or None
        What has the images, their labels, splits and groups.
    names : dict of str to list of str
        Names of classes that are given as numbers, by column.
    """

    image: str
    label: str | None
    split: str | None
    group: str | None
    names: dict[str, list[str]]


def columns_of(schema: Any) -> Columns:
    """Return the columns of a file.

    Parameters
    ----------
    schema : pyarrow.Schema
        What the file says of its columns.

    Returns
    -------
    Columns

    Raises
    ------
    DataError
        None has images; the message is the reason.
    """
    features = _features_of(schema)
    image = _image_column(schema, features)
    split, group = [name if name in schema.names else None for name in _OTHERS]
    names = {name: own for name, each in features.items() if (own := _class_names(each))}
    classes = [*names, *(name for name in ("label", *LABELS) if name in schema.names)]
    label = next((name for name in classes if name not in _OTHERS), None)
    return Columns(image, label, split, group, names)


def has_dictionaries(schema: Any) -> bool:
    """Return whether the values of a column are kept apart from its rows, each once.

    Parameters
    ----------
    schema : pyarrow.Schema
        What a file says of its columns.

    Returns
    -------
    bool
    """
    from pyarrow import types

    return any(types.is_dictionary(kind) for kind in schema.types)


def _features_of(schema: Any) -> dict[str, Any]:
    """Return what Hugging Face's datasets say of the columns; nothing where they do not."""
    content = (schema.metadata or {}).get(b"huggingface", b"{}")
    with suppress(ValueError, RecursionError, KeyError, TypeError, AttributeError):
        features = json.loads(content)["info"]["features"]
        return {name: each for name, each in features.items() if isinstance(each, dict)}
    return {}


def _image_column(schema: Any, features: Mapping[str, Any]) -> str:
    """Return the column with images."""
    own = [name for name, each in features.items() if each.get("_type") == "Image"]

    def holds(kind: Any) -> bool:
        if _is(kind, ("is_struct",)):
            return any(kind.field(each).name == "bytes" for each in range(kind.num_fields))
        return _is(kind, _BYTES)

    full = [name for name in schema.names if holds(schema.field(name).type)]
    named = [name for name in _IMAGES if name in schema.names]
    own += [name for name in named if name in full]
    own += full if len(full) == 1 else []
    own += [name for name in named if _is(schema.field(name).type, _TEXTS)]
    if not own:
        raise DataError(
            f"it has no column of images; expected a column image, of bytes or of paths, but it "
            f"has {some_of(schema.names) or 'none'}"
        )
    return own[0]


def _is(kind: Any, tests: Sequence[str]) -> bool:
    """Return whether a type passes one of pyarrow's tests, also as that of a dictionary."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return any(getattr(types, test)(kind) for test in tests)


def _class_names(feature: Any) -> list[str]:
    """Return the names of classes that are given as numbers, also of several in a list."""
    inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
    names = inner.get("names") if isinstance(inner, dict) else None
    return [str(each) for each in names] if isinstance(names, list) else []
