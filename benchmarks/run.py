"""Run the benchmarks of a topic: ``python benchmarks/run.py TOPIC [--write]``.

The topics are the sections of docs/performance.md; ``cache`` is for docs/cache.md, ``labels`` for
docs/labels.md, ``novelty`` for docs/heads.md, ``alike`` and ``sources`` for docs/images.md,
``serving`` for docs/serve.md and ``scale`` for docs/scale.md. The tables are printed, and with
``--write`` they replace those in the pages, each between two comments that name it; the line below
tells processor, versions and date. ``--json FOLDER`` keeps all figures.
``--clipart FOLDER`` names the folder ``png`` of openclipart-png, ``--keras PYTHON`` the interpreter
of an environment with Keras, ``--reference PYTHON`` that of one with pytorch-ood, ``--before
FOLDER`` another version of the package, and ``--packages FOLDER`` the packages of `sets`, each in a
folder with the name of its set.
"""

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TOPICS: dict[str, dict[str, tuple[str, ...]]] = {
    "end-to-end": {"extraction": ("keras",)},
    "runtimes": {"runtimes": ()},
    "several-bases": {"together": (), "bases": ("packages",)},
    "engines": {"engines": ()},
    "gpu": {"gpu": ()},
    "networks": {"networks": ()},
    "bf16": {"precision": ("clipart",)},
    "more-images": {"growth": (), "forecast": ()},
    "start-up": {"start_up": ()},
    "heads": {"heads": (), "reduction": (), "streaming": ()},
    "solvers": {"solvers": ("before",)},
    "sweeps": {"sweeps": ("packages",)},
    "fine-tuning": {
        "finetune": (),
        "views": ("clipart",),
        "plateau": ("clipart",),
        "verdict": ("packages",),
        "mixed": (),
    },
    "recipes": {"recipes": ()},
    "scaling": {"scaling": ("packages",)},
    "reports": {"report": ()},
    "export": {"export": ()},
    "serving": {"serve": ()},
    "labels": {"suspects": ("packages",), "suggest": ("packages",)},
    "plain": {"plain": ("packages",)},
    "similar": {"similar": ()},
    "alike": {"alike": ("packages",)},
    "sources": {"sources": ()},
    "novelty": {"novelty": ("packages", "reference")},
    "cache": {"compression": (), "reading": (), "memory": ()},
    "scale": {"scale": ()},
}
"""Topic to its benchmarks, each with those of the options above that it takes."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("topic", choices=TOPICS)
    parser.add_argument("--write", action="store_true", help="replace the tables in the pages")
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, to see that it runs")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs", metavar="FOLDER")
    for name in ("json", "clipart", "keras", "reference", "before", "packages"):
        parser.add_argument(f"--{name}")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(given.json or name)
        folder.mkdir(parents=True, exist_ok=True)
        for benchmark, options in TOPICS[given.topic].items():
            file = folder / f"{benchmark}.json"
            command = [sys.executable, str(HERE / f"{benchmark}.py"), "--json", str(file)]
            command += ["--smoke"] * given.smoke
            for option in options:
                if getattr(given, option):
                    command += [f"--{option}", getattr(given, option)]
            subprocess.run(command, check=True)
            results = json.loads(file.read_text())
            for title, rows in results.get("tables", {}).items():
                text = f"{table(rows)}\n\n{measured(results['environment'])}"
                print(f"\n{title}\n\n{text}\n")
                if given.write:
                    replace(given.docs, title, text)


def table(rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in Markdown; columns of numbers are aligned to the right."""
    head, *others = [[cell(each) for each in row] for row in rows]
    aligned = ["---" if not place else "---:" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, aligned, *others))


def cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def measured(environment: Mapping[str, str]) -> str:
    """Return the line below a table."""
    versions = [
        f"{name} {release}"
        for name, release in environment.items()
        if name not in {"processor", "date"} and release != "missing"
    ]
    return f"{environment['date']}, {environment['processor']}; {', '.join(versions)}."


def replace(docs: Path, title: str, text: str) -> None:
    """Replace a table in the page that has it."""
    start, end = f"<!-- table: {title} -->", "<!-- end of the table -->"
    between = re.compile(f"(?<={re.escape(start)}\n).*?(?=\n{end})", re.DOTALL)
    pages = [page for page in docs.glob("*.md") if between.search(page.read_text())]
    if len(pages) != 1:
        sys.exit(f"{len(pages)} pages in {docs} have a table {title!r}; expected one")
    pages[0].write_text(between.sub(lambda _: text, pages[0].read_text()))
    print(f"written into {pages[0]}")


if __name__ == "__main__":
    main()
