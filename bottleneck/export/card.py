"""The model card of an exported file: a README with metadata, as Hugging Face reads it."""

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from bottleneck.errors import UsageError
from bottleneck.evaluate import Evaluation
from bottleneck.files import atomic_write
from bottleneck.labels import classes_of
from bottleneck.records import ShippedRecord

if TYPE_CHECKING:
    from bottleneck.images import ImageSet

__all__ = ["check_card", "write_card"]

_CARD = "README.md"
_MARK = "<!-- Written by 'bottleneck export --card'"
_HUB = "hf-hub:"


def check_card(file: Path) -> None:
    """Refuse to replace a README that is no model card of ours.

    Parameters
    ----------
    file : Path
        The file to export.

    Raises
    ------
    UsageError
        There is one beside it.
    """
    card = file.parent / _CARD
    if card.exists() and not (card.is_file() and _MARK in card.read_text(errors="replace")):
        raise UsageError(
            f"{str(card)!r} already exists and was not written by `card`; name a file in another "
            f"folder, or leave `card` out"
        )


def write_card(
    file: Path,
    found: Any,
    record: ShippedRecord,
    images: "ImageSet",
    *,
    place: Path,
    preprocessing: str,
    temperature: float,
) -> tuple[Path, bool]:
    """Write the model card beside an exported file.

    Parameters
    ----------
    file : Path
        The file.
    found : Exported
        How it was checked.
    record : ShippedRecord
        What it says of itself.
    images : ImageSet
        The images that the head was fitted on.
    place : Path
        Folder of the head, which has its evaluation.
    preprocessing : str
        The preprocessing in words.
    temperature : float
        The head's temperature.

    Returns
    -------
    card : Path
        The card.
    evaluated : bool
        Whether there was an evaluation on test images to put into it.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    counts: dict[str, Counter[str]] = {"train": Counter(), "val": Counter(), "test": Counter()}
    for item in images.items:
        counts.setdefault(item.split or "train", Counter()).update(_classes(item.label, record))
    # The result is Markdown, which no browser runs as it is.
    environment = Environment(  # noqa: S701
        loader=PackageLoader("bottleneck.export", "."),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "interval": _interval, "share": _share}
    evaluation = _evaluation(place)
    text = environment.get_template("card.md.jinja").render(
        base_model=record.model.removeprefix(_HUB) if record.model.startswith(_HUB) else "",
        counts=counts,
        evaluation=evaluation,
        found=found,
        layers=", ".join(dict.fromkeys(record.layers)),
        name=file.name,
        preprocessing=preprocessing,
        record=record,
        splits=[split for split, own in counts.items() if own],
        temperature=temperature,
    )
    atomic_write(file.parent / _CARD, text)
    return file.parent / _CARD, evaluation is not None


def _classes(label: str | None, record: ShippedRecord) -> tuple[str, ...]:
    if label is None:
        return ()
    return classes_of(label) if record.multilabel else (label,)


def _evaluation(place: Path) -> Evaluation | None:
    """Return the evaluation on test images, if there is one and it can be read."""
    with suppress(OSError, ValueError):
        content = (place / "evaluation-test.json").read_bytes()
        return TypeAdapter(Evaluation).validate_json(content)
    return None


def _cell(text: str) -> str:
    """Return a text that does not end the cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(value: tuple[float, float] | None) -> str:
    return "{:.4f} to {:.4f}".format(*value) if value else "-"
