"""Every benchmark runs at its smallest size, prints its figures and writes them.

The unmarked tests take about 10 s of processor time, those marked ``ci`` about 330 s in all.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarked import FOLDER, ROOT

DOCS = ROOT / "docs"
HELPERS = {"baselines", "common", "run", "sets"}
FIGURES = {
    "alike": ("faces", "half as large", "hash: recall"),
    "bases": ("faces", "efficientnet_lite0, joined", "accuracy", "value"),
    "compression": ("EfficientNet-Lite0, pooled", "zstd", "ratio"),
    "engines": ("2 together", "rows by images"),
    "export": ("EfficientNet-Lite0", "ratio"),
    "extraction": ("mobilenet_v2", "auto by reference"),
    "finetune": ("resnet18 from layer4", "ratio"),
    "forecast": ("efficientnet_lite0", "seconds", "actual by forecast"),
    "gpu": ("resnet50", "end to end by bare"),
    "growth": ("again", "second by first"),
    "heads": ("softmax, 2 classes", "ratio"),
    "memory": ("growth", "ratio"),
    "mixed": ("resnet18",),
    "networks": ("traced", "share"),
    "novelty": ("faces", "share of known images above 95", "mean"),
    "plain": ("faces", "fastai", "its time by ours from the cache"),
    "plateau": ("seed 0", "fine-tuned"),
    "precision": ("faces", "`auto`, stored as float16", "smallest cosine"),
    "recipes": ("variants", "low rank", "seconds"),
    "reading": ("ResNet-50, pooled", "random tenth by whole bank"),
    "reduction": ("200 rows", "solver, s"),
    "runtimes": ("MobileNetV2", "ratio"),
    "scale": ("30 together", "images of a lease at 100/s"),
    "scaling": ("faces, all", "accuracy, the deviation"),
    "similar": ("100 x 64 in memory, to 5", "ratio"),
    "report": ("60 images", "MB"),
    "serve": ("server", "images/s"),
    "solvers": ("softmax, 2 classes", "scikit-learn", "times ours"),
    "sources": ("S3", "S3 by local"),
    "start_up": ("--help", "share"),
    "streaming": ("1,000 x 64", "ratio of times"),
    "suggest": ("faces", "random", "after"),
    "suspects": ("faces", "bottleneck", "recall"),
    "sweeps": ("softmax, 45 C x 5 folds", "ratio"),
    "together": ("EfficientNet-Lite 0, 1, 2: small", "ratio"),
    "verdict": ("faces, efficientnet_lite0, all", "gain"),
    "views": ("ratio",),
}
"""Benchmark to the way to one of its figures."""
QUICK = {"reading", "similar"}
"""Those that need no network, and little time."""


def test_every_benchmark_is_tried_and_has_a_topic():
    found = {file.stem for file in FOLDER.glob("*.py")} - HELPERS
    assert found == set(FIGURES)
    topics = subprocess.run(
        [sys.executable, "-c", "import run; print(*sum(map(list, run.TOPICS.values()), []))"],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(topics.stdout.split()) == sorted(found)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.ci) for name in FIGURES]
)
def test_a_benchmark_prints_and_writes_its_figures(name, run_benchmark):
    """With processor, versions and date; and each table has its place on a page."""
    printed = run_benchmark(name, "--json", "found.json")
    found = json.loads(Path("found.json").read_text())
    assert {"processor", "python", "torch", "numpy", "date"} <= found["environment"].keys()
    figure = found["figures"]
    for key in FIGURES[name]:
        figure = figure[key]
    if name == "mixed":
        figure = figure if isinstance(figure, str) else figure["ratio"]
    assert figure == "skipped: this processor has no bf16" or math.isfinite(figure)
    measured = [each for each in found["figures"].values() if isinstance(each, dict)]
    assert all(each.get("identical", True) for each in measured)
    assert re.search(rf"^{re.escape(', '.join(FIGURES[name]))}\b.* \S+$", printed, re.MULTILINE)
    assert all(f"{key} " in printed for key in found["environment"])
    for title in found.get("tables", {}):
        pages = [
            page for page in DOCS.glob("*.md") if f"<!-- table: {title} -->" in page.read_text()
        ]
        assert len(pages) == 1, title


@pytest.mark.ci
def test_recipes_are_screened_by_their_last_epoch(run_benchmark):
    """And by two averages of weights, which count as variants."""
    run_benchmark("recipes", "--screen", "1", "--json", "found.json")
    found = json.loads(Path("found.json").read_text())["figures"]["variants"]
    assert {"low rank", "low rank, half way", "low rank, mean of epochs"} < found.keys()
    for own in found.values():
        assert all(
            math.isfinite(own[f"{each} over the head"][0]) for each in ("accuracy", "log_loss")
        )


@pytest.mark.ci
def test_a_topic_writes_the_tables_of_its_page(run_benchmark):
    shutil.copytree(DOCS, "docs")
    before = Path("docs/performance.md").read_text()
    printed = run_benchmark("run", "solvers", "--write", "--docs", "docs", "--json", "figures")
    after = Path("docs/performance.md").read_text()
    start, end = "<!-- table: solvers -->\n", "\n<!-- end of the table -->"
    (old,), (new,) = (re.findall(f"{start}(.*?){end}", text, re.DOTALL) for text in (before, after))
    assert after == before.replace(old, new)
    head, ruler, *rows, blank, environment = new.splitlines()
    assert head.startswith("| reduced rows, classes | ours |")
    assert set(ruler) == set("| -:")
    assert len(rows) == 1
    assert blank == ""
    assert re.fullmatch(r"\d{4}-\d\d-\d\d, \d+ cores of .*; python .*, torch .*\.", environment)
    assert new in printed
    assert Path("figures/solvers.json").exists()
    assert Path("docs/cache.md").read_text() == (DOCS / "cache.md").read_text()


PARTS = """
import os, sys, time
import gpu

def stops(given):
    yield "figure", 1.0
    raise ValueError("as it must")

def dies(given):
    yield "figure", 2.0
    os.kill(os.getpid(), 9)

def hangs(given):
    yield "figure", 3.0
    time.sleep(600)

gpu.PARTS |= {"stops": stops, "dies": dies, "hangs": hangs}
gpu.write_many = lambda *_: None
gpu.main()
"""


@pytest.mark.ci
def test_a_part_on_the_gpu_survives_the_failure_of_others():
    """One that fails, one that is killed, one that never ends, and one without time."""
    command = [sys.executable, "-c", PARTS, "--smoke", "--json", "found.json", "--minutes", "0.2"]
    path = os.pathsep.join([str(ROOT), str(FOLDER)])
    done = subprocess.run(
        [*command, "--parts", "stops", "dies", "hangs", "mlp"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    found = json.loads(Path("found.json").read_text())["figures"]
    assert found["card"]["device"] == "cpu"
    assert [found[name].get("figure") for name in ("stops", "dies", "hangs")] == [1, 2, 3]
    failed = {name: part["failed"] for name, part in found.items() if "failed" in part}
    assert failed["stops"] == "ValueError: as it must"
    assert failed["dies"] == "ended with -9"
    assert re.fullmatch(r"ended after \d+ s, when the time was over", failed["hangs"])
    assert failed["mlp"] == "no time is left of 0.2 minutes"
    assert failed["stops"] in done.stdout


@pytest.mark.ci
def test_without_a_gpu_each_part_says_so(run_benchmark):
    run_benchmark(
        "gpu", "--device", "cuda:9", "--parts", "resume", "mlp", "--json", "found.json", code=1
    )
    found = json.loads(Path("found.json").read_text())["figures"]
    for part in ("resume", "mlp"):
        assert re.search("no GPU 'cuda:9'", found[part]["failed"])


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="oneDNN is limited where it is used")
def test_bf16_is_left_out_where_the_processor_has_none():
    done = subprocess.run(
        [sys.executable, FOLDER / "mixed.py", "--smoke"],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "skipped: this processor has no bf16" in done.stdout
