"""The templates of pages: what is put into them is escaped, and no other script can run."""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bottleneck
from bottleneck.errors import counted, one_line

if TYPE_CHECKING:
    from bottleneck.evaluate import Evaluation

__all__ = ["island", "policy", "rendered", "script"]

_PACKAGE = Path(bottleneck.__file__).parent
_MOST_CLASSES = 30
"""Of a confusion matrix."""


def rendered(template: str, **facts: Any) -> str:
    """Return a page.

    Parameters
    ----------
    template : str
        Path of the template in this package, such as ``report/page.html``.
    **facts
        What it shows.

    Returns
    -------
    str
    """
    style = (_PACKAGE / "report" / "page.css").read_text(encoding="utf-8")
    shared = {"style": _as_it_is(style), "version": bottleneck.__version__}
    return str(_templates().get_template(template).render(**shared, **facts))


def script(file: str) -> Any:
    """Return the script of a page, which its template takes as it is.

    Parameters
    ----------
    file : str
        Its path in this package.

    Returns
    -------
    markupsafe.Markup
    """
    return _as_it_is((_PACKAGE / file).read_text(encoding="utf-8"))


def island(content: Mapping[str, Any]) -> Any:
    """Return JSON in which nothing can end the element that it stands in.

    Parameters
    ----------
    content : mapping
        JSON content.

    Returns
    -------
    markupsafe.Markup
    """
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return _as_it_is(text)


def _as_it_is(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 - of this package's own files, or escaped


def policy(code: str = "") -> str:
    """Return a policy that keeps a page from asking for anything, and from running other scripts.

    Parameters
    ----------
    code : str
        The script of the page; empty for none.

    Returns
    -------
    str
    """
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if code else "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        f"img-src data: 'self'; base-uri 'none'; form-action 'none'"
    )


@cache
def _templates() -> Any:
    """Return the templates, which escape all that is put into them."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "shown": lambda value: one_line(str(value)),
        "percent": lambda value: f"{value:.1%}",
        "figure": lambda value: str(value) if isinstance(value, int) else f"{value:.4g}",
        "bytes": lambda value: f"{value / 1000:.3g} kB",
        "count_of": counted,
        "matrix": _matrix,
        "as_image": _as_image,
        "cell": _cell,
        "code": lambda text: _as_it_is(one_line(text)),
    }
    return made


def _as_image(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _matrix(evaluation: "Evaluation") -> dict[str, Any]:
    """Return a confusion matrix by rows; of many classes, those with the most errors."""
    counts, labels = evaluation.confusion or [], [each.label for each in evaluation.classes]
    places = range(len(labels))
    if len(labels) > _MOST_CLASSES:
        wrong = {
            each: sum(counts[each]) + sum(row[each] for row in counts) - 2 * counts[each][each]
            for each in places
        }
        worst = sorted(places, key=lambda each: -wrong[each])[:_MOST_CLASSES]
        places = sorted(worst)  # type: ignore[assignment]
    rows = [
        (
            labels[row],
            [
                {
                    "images": counts[row][column],
                    "share": counts[row][column] / max(1, sum(counts[row])),
                    "right": row == column,
                    "predicted": labels[column],
                }
                for column in places
            ],
        )
        for row in places
    ]
    return {"labels": [labels[each] for each in places], "rows": rows, "classes": len(rows)}


def _cell(value: Any) -> Any:
    """Return a text of Markdown in which no character has a meaning, also in a table."""
    text = one_line(str(value))
    escaped = "".join(f"\\{letter}" if letter in "\\`*_[]|#~" else letter for letter in text)
    return _as_it_is(escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
