"""The README, all pages, notebooks and the demo work as described. About 30 s in the first tier."""

import json
import re
import shlex
import shutil
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from itertools import groupby
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pytest
import torchvision
import typer
from click import UsageError
from conftest import Finished
from nbclient import NotebookClient
from PIL import Image

from bottleneck.bases.network import Network
from bottleneck.cli import app, main
from bottleneck.cli.command import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in (*ROOT.glob("*.md"), ROOT / "cache" / "README.md", *ROOT.glob("docs/**/*.md"))
}
"""All pages of the site, by their path in the repository."""
OWN = {
    "README.md": "test_the_readmes_python_runs",
    "docs/cache.md": "test_the_commands_on_the_cache_run",
    "docs/heads.md": "test_the_commands_and_the_python_of_heads_run",
    "docs/report.md": "test_the_commands_and_the_python_of_reports_run",
    "docs/serve.md": "test_the_python_of_serving_runs",
}
"""Pages with a test of their own, which also looks at what comes out."""
BEFORE = {
    "docs/export.md": (
        "extract --model efficientnet_lite0",
        "fit-head --C 0.01 --name NAME",
    ),
    "docs/images.md": (
        "extract --model efficientnet_lite0 --layer blocks.4 --layer penultimate --pool avg",
    ),
    "docs/labels.md": (
        "extract --model efficientnet_lite0",
        "fit-head --C 0.01 --name NAME",
    ),
}
"""Commands that a page takes as typed, beside those of the demo."""
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]+?) -->\n)?"
    r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A code block of a page, with the comment above it."""

    language: str
    title: str
    text: str
    mark: str

    @property
    def runs(self) -> bool:
        """Whether the test of its page runs it."""
        return not self.mark.startswith(("not run: ", "run by "))

    def run(self, bottleneck, page: str) -> None:
        """Type its commands, run its Python, or write it to the file that its title names."""
        if self.title:
            Path(self.title).write_text(self.text)
        elif self.language == "python":
            exec(compile(self.text, page, "exec"), {"__name__": "page"})
        for line in self.text.splitlines() if not self.title and not self.language else ():
            finished = bottleneck(*shlex.split(line)[1:])
            code = 1 if self.mark == "exits with 1" else 0
            assert finished.code == code, (line, finished.err)
            assert finished.out or finished.err


def blocks_of(page: str) -> list[Block]:
    """Return all code blocks of a page."""
    return [
        Block(**{name: text or "" for name, text in found.groupdict().items()})
        for found in FENCE.finditer(PAGES[page].read_text())
    ]


def blocks(language: str) -> list[str]:
    return [block.text for block in blocks_of("README.md") if block.language == language]


def run_page(page: str, bottleneck) -> None:
    """Run the blocks of a page from top to bottom."""
    for block in blocks_of(page):
        if block.runs:
            block.run(bottleneck, page)


@pytest.fixture(scope="module")
def made_demo(made_once) -> tuple[Path, Finished]:
    """A folder in which the demo has run, not to be changed, and how it ended."""

    def make(folder: Path) -> None:
        (folder / "made").mkdir()
        with (
            chdir(folder / "made"),
            (folder / "out").open("w", encoding="utf-8") as out,
            (folder / "err").open("w", encoding="utf-8") as err,
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as stopped,
        ):
            main(["demo"])
        (folder / "code").write_text(str(stopped.value.code or 0))

    folder = made_once("demonstration", make)
    out, err = ((folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
    return folder / "made", Finished(int((folder / "code").read_text()), out, err)


@pytest.fixture
def demo(made_demo, tmp_path) -> Finished:
    """How the demo ended, and its files in the current folder."""
    folder, finished = made_demo
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return finished


@pytest.fixture
def in_demo(demo, monkeypatch):
    """The demo's folder, in which the pages' commands are typed."""
    monkeypatch.chdir("demo")
    return demo


def test_the_demo_prints_every_command_and_a_table(demo):
    """Progress, every command, a final table, one picture, and next steps."""
    assert demo.code == 0, demo.err
    assert "extract: 200 of 200 images" in demo.err
    ran = re.findall(r"^\$ (bottleneck .*)", demo.out, re.MULTILINE)
    assert [command.split()[1] for command in ran] == [
        "extract",
        "fit-head",
        "evaluate",
        "fit-head",
        "evaluate",
    ]
    for command in ran:
        assert f"  {command}" in demo.out.partition("The commands were:")[2]
    closing = re.findall(r"^demo-(softmax|svm) +\S+ +(\S+) +40 +(\S+)", demo.out, re.MULTILINE)
    assert [clf for clf, _, _ in closing] == ["softmax", "svm"]
    assert all(float(accuracy) >= 0.95 for row in closing for accuracy in row[1:])
    assert Path("demo/confusion_matrix.png").stat().st_size > 5000
    assert len(list(Path("demo/data").glob("*/*.png"))) == 200
    assert [path.name for path in Path().iterdir()] == ["demo"]
    used = sum(512 * path.stat().st_blocks for path in Path("demo").rglob("*"))
    assert "The demo writes\n2 MB, all of it in" in README
    assert 0.5e6 < used < 2.5e6


@pytest.mark.ci
def test_the_demo_writes_missing_images_again(bottleneck, demo):
    Path("demo/data/face/003.png").unlink()
    Path("demo/data/.DS_Store").touch()
    assert demo.code == 0
    again = bottleneck("demo")
    assert again.code == 0
    assert "demo images: 1 written" in again.err
    assert "0 computed, 200 found in the cache" in again.out
    found = json.loads(bottleneck("demo", "--json").out)
    assert [row["head"] for row in found["heads"]] == ["demo-softmax", "demo-svm"]
    assert len(found["commands"]) == 5


@pytest.mark.ci
@pytest.mark.parametrize("option", [(), ("--config", "mine.toml")])
def test_the_demos_commands_are_right_where_they_are_pasted(bottleneck, faces_cache, option):
    """With any cache and heads folders in the file of settings."""
    shutil.copytree(faces_cache.root, "cache")
    shutil.copytree(faces_cache.root, "own")
    Path(option[-1] if option else "bottleneck.toml").write_text(
        '[default]\ncache = "shared"\n[demo]\ncache = "cache"\n[evaluate]\ncache = "own"\n'
        '[fit-head]\nheads = "elsewhere"\nclf = "svm"\n'
    )
    ran = bottleneck("demo", *option)
    assert ran.code == 0, ran.err
    pasted = re.findall(r"^  (bottleneck .*)", ran.out, re.MULTILINE)
    assert len(pasted) == 6
    assert "0 computed, 200 found in the cache" in bottleneck(*shlex.split(pasted[0])[1:]).out
    for line in pasted[1:]:
        finished = bottleneck(*shlex.split(line)[1:])
        assert finished.code == 0, (line, finished.err)
    heads = Path("demo/heads")
    assert sorted(path.name for path in heads.iterdir()) == ["demo-softmax", "demo-svm"]
    assert not Path("shared").exists()
    assert not Path("elsewhere").exists()


def test_the_demo_leaves_other_folders_alone(bottleneck, make_images):
    make_images("demo/data", cat=2, dog=2)
    refused = bottleneck("demo")
    assert refused.code == 2
    assert "contains other files" in refused.err
    assert not Path("demo/cache").exists()


@pytest.mark.ci
def test_after_the_demo_commands_take_the_users_own_images(bottleneck, demo, make_images):
    assert demo.code == 0
    make_images("data", cat=4, dog=4)
    assert bottleneck("extract", "--model", "squeezenet1_1", "--weights", "random").code == 0
    assert bottleneck("fit-head", "--C", 1).code == 0
    evaluated = bottleneck("evaluate")
    assert "newest" not in evaluated.err
    assert "2 test images of 'data'" in evaluated.out


def test_the_readmes_commands_are_for_the_users_own_images():
    """The first is run by test_auto.py, the others need VGG16's weights."""
    first, own = [block for block in blocks("") if block.startswith("bottleneck")]
    assert first == "bottleneck auto data --minutes 10\n"
    assert own.splitlines()[:2] == [
        "bottleneck extract --model vgg16 --layer block5_pool",
        "bottleneck fit-head --clf svm",
    ]


@pytest.mark.ci
def test_all_commands_run_one_after_the_other(bottleneck, in_demo):
    """Those of docs/commands.md, on the demo's files."""
    assert in_demo.code == 0
    run_page("docs/commands.md", bottleneck)
    assert Path("mine.png").exists()


@pytest.fixture
def placeholders(in_demo):
    """The demo's folder, with files of the names that pages use for the reader's own."""
    assert in_demo.code == 0
    faces = [Path(f"data/face/00{number}.png") for number in range(6)]
    for name, face in zip(("IMAGE", "image.jpg"), faces, strict=False):
        Image.open(face).convert("RGB").save(name, "JPEG")
    Path("FOLDER").mkdir()
    for number, face in enumerate(faces):
        Image.open(face).resize((30, 30)).save(f"FOLDER/{number}.png")
    return in_demo


@pytest.mark.ci
@pytest.mark.parametrize("page", sorted(PAGES.keys() - OWN.keys() - {"docs/commands.md"}))
def test_the_code_blocks_of_a_page_run(page, bottleneck, request):
    """From top to bottom, on the demo's files."""
    if not any(block.runs for block in blocks_of(page)):
        return
    request.getfixturevalue("placeholders")
    for command in BEFORE.get(page, ()):
        assert bottleneck(*shlex.split(command)).code == 0
    run_page(page, bottleneck)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs_or_says_why_not(page):
    """What runs is Python, the content of a file, or commands of ours only."""
    for block in blocks_of(page):
        if block.mark.startswith("run by tests/"):
            file, _, name = block.mark.removeprefix("run by ").partition("::")
            assert f"def {name}(" in (ROOT / file).read_text() if name else (ROOT / file).exists()
        elif block.runs and not block.title and block.language != "python":
            assert not block.language, (page, block.text)
            lines = block.text.splitlines()
            assert all(line.startswith("bottleneck ") for line in lines), (page, block.text)
        for file in re.findall(r"\btest_\w+\.py\b", block.mark):
            assert (ROOT / "tests" / file).exists(), (page, block.mark)


def test_pages_with_a_test_of_their_own():
    text = Path(__file__).read_text()
    for page, name in OWN.items():
        assert f"def {name}(" in text
        assert f'"{page}"' in text.partition(f"def {name}(")[2] or page == "README.md"


def test_reliability_names_tests_that_exist():
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGES["docs/reliability.md"].read_text())
    assert len(named) > 40
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), (file, name)


TYPED = [
    pytest.param(line, id=f"{Path(page).stem}-{number}")
    for page in ("docs/lectures.md", "docs/how/index.md", "docs/how/move.md", "docs/how/keras.md")
    for number, line in enumerate(re.findall(r"`bottleneck ([^`]+)`", PAGES[page].read_text()))
]


@pytest.mark.parametrize("line", TYPED)
def test_commands_in_tables_can_be_typed(line):
    """Their commands exist, and so do their options with these values."""
    words = shlex.split(line)
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert command is not typer.main.get_command(app), line
    try:
        command.make_context("bottleneck", list(words))
    except UsageError as error:
        pytest.fail(f"{line}: {error.format_message()}")


def test_options_in_the_text_of_pages_exist():
    """But for the changelog, which has those of before, and for what is said of benchmarks."""
    given = json.loads((ROOT / "tests/options.json").read_text())
    known = {name for options in given.values() for names in options for name in names.split("/")}
    known |= {"--config", "--help", "--install-completion", "--no-suspects"}
    for page in PAGES.keys() - {"docs/performance.md", "CHANGELOG.md"}:
        spans = re.findall(r"`([^`\n]+)`", PAGES[page].read_text())
        ours = (span for span in spans if not span.startswith(("python ", "sbatch ")))
        found = {name for span in ours for name in re.findall(r"(?<!\S)--[a-z][a-z-]*", span)}
        assert found <= known, page


@pytest.mark.ci
def test_the_commands_on_the_cache_run(bottleneck, in_demo):
    """The commands of docs/cache.md on the demo's files, and its Python."""
    assert in_demo.code == 0
    np.save("rows.npy", np.eye(4, dtype="float32"))
    rows = [f"data/{label}/00{n}.png,{label}" for label in ("face", "no_face") for n in (0, 1)]
    Path("rows.csv").write_text("\n".join(["path,label", *rows]))
    run_page("docs/cache.md", bottleneck)
    assert "mine" in bottleneck("cache", "ls").out  # the features of the demo are removed
    assert "efficientnet" not in bottleneck("cache", "ls").out
    with np.load("features.npz") as exported:
        assert exported["features"].shape == (200, 1280)


@pytest.mark.ci
def test_the_commands_and_the_python_of_heads_run(bottleneck, in_demo, capsys):
    """The commands of docs/heads.md on the demo's files."""
    assert in_demo.code == 0
    found = blocks_of("docs/heads.md")
    for block in sorted(found, key=lambda each: each.language == "python"):
        if block.runs:
            block.run(bottleneck, "docs/heads.md")
    told = capsys.readouterr().out
    assert "headclassifier__clf" in told
    assert "blocks.4 (avg) + efficientnet_lite0 penultimate" in told


@pytest.mark.ci
def test_the_commands_and_the_python_of_reports_run(bottleneck, in_demo):
    """The commands of docs/report.md on the demo's files."""
    assert in_demo.code == 0
    for line in (
        "extract --model efficientnet_lite0",
        "fit-head --C 0.01 --name mine",
        "fit-head --clf lda --name other",
    ):
        finished = bottleneck(*shlex.split(line))
        assert finished.code == 0, (line, finished.err)
    run_page("docs/report.md", bottleneck)
    assert Path("report/index.html").is_file()


@pytest.mark.ci
def test_the_python_of_serving_runs(bottleneck, in_demo, monkeypatch):
    """The Python of docs/serve.md, and paths on standard input, on the demo's files."""
    assert in_demo.code == 0
    for command in ("extract --model efficientnet_lite0", "fit-head --clf svm --name svm"):
        assert bottleneck(*shlex.split(command)).code == 0
    for name, number in (("photo", 0), ("a", 1), ("b", 2)):
        Image.open(f"data/face/00{number}.png").convert("RGB").save(f"{name}.jpg")
    assert any(block.runs for block in blocks_of("docs/serve.md"))
    run_page("docs/serve.md", bottleneck)
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"a.jpg\0b.jpg\0")))
    lines = bottleneck("predict", "-", "--json").out.splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["a.jpg", "b.jpg"]


@pytest.mark.ci
def test_the_arrays_of_a_keras_script_are_imported(bottleneck, make_images):
    """Blocks of docs/how/keras.md, on arrays that lack the last images, as that script's do."""
    for split, count in (("train", 6), ("validation", 4)):
        for file in make_images(f"data/{split}", cats=count, dogs=count).glob("*/*.png"):
            Image.open(file).save(file.with_suffix(".jpg"))
        array = np.random.default_rng(0).normal(size=(2 * count - 1, 2, 2, 3))
        np.save(f"bottleneck_features_{split}.npy", array.astype("float32"))
    page = "docs/how/keras.md"
    for block in blocks_of(page):
        if "of_a_keras_script" in block.mark:
            block.run(bottleneck, page)
    assert {"svm", "softmax"} < set(bottleneck("leaderboard").out.split())
    assert Path("rows.csv").read_text().splitlines()[-1].endswith("002.jpg,dogs,validation")


def keys_of_json() -> dict[str, tuple[set[str], set[str]]]:
    """Return the keys that each command always prints, and all of its keys, by docs/json.md."""
    page = (ROOT / "docs" / "json.md").read_text()
    found = {}
    for _, names, _, keys, _ in (
        line.split("|") for line in page.splitlines() if line.startswith("| `")
    ):
        always, whole = (set(re.findall(r"`(\w+)`", text)) for text in (keys.split(";")[0], keys))
        found |= dict.fromkeys(re.findall("`(.+?)`", names), (always, whole))
    return found


def test_the_keys_of_every_command_are_documented():
    assert {name.partition(" --")[0] for name in keys_of_json()} == set(COMMANDS)


@pytest.mark.ci
def test_the_keys_of_json_are_those_documented(bottleneck, in_demo):
    """All of them are printed, those without a condition each time, and no others."""
    assert in_demo.code == 0
    images = "path,label\ndata/face/000.png,face\ndata/no_face/000.png,none\n"
    Path("some.csv").write_text(f"{images}data/face/001.png,face\ndata/no_face/001.png,none\n")
    np.save("some.npy", np.eye(4, dtype="float32"))
    for command in (
        "extract --model efficientnet_lite0 --data some.csv --views 1 --augment flip --cache views",
        "cache import some.npy --table some.csv --model m --cache arrays",
    ):
        assert bottleneck(*shlex.split(command)).code == 0
    Path("some.csv").write_text(f"{images}none.png,face\n")
    Path("reviewed.csv").write_text("path,suggested\ndata/face/000.png,no_face\n")
    Path("unlabelled").mkdir()
    Image.new("RGB", (64, 64)).save("unlabelled/0.png")
    Path("unlabelled/1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    runs = {
        "extract": "extract --model efficientnet_lite0 --near-duplicates",
        "fit-head": "fit-head --near-duplicates",
        "sweep": "sweep --clf centroid --clf lda",
        "auto": "auto --model efficientnet_lite0 --clf lda",
        "advise": "advise --clf ridge --repeats 2",
        "leaderboard": "leaderboard",
        "leaderboard --compare": "leaderboard --compare 1 2",
        "extract --dry-run": "extract --model efficientnet_lite0 --dry-run",
        "layers": "layers efficientnet_lite0",
        "augment-preview": "augment-preview --augment flip",
        "config": "config evaluate",
        "cache info": "cache info efficientnet_lite0 --cache views; cache info m --cache arrays",
        "cache export": "cache export x.npz",
        "cache import": "cache import x.npz --cache elsewhere",
        "suspects": "suspects",
        "suspects --fix": "suspects --fix reviewed.csv --output corrected.csv",
        "suggest": "suggest unlabelled",
        "predict": "predict some.csv",
        "export": "export demo-softmax out.zip",
        "similar": "similar some.csv",
        "finetune": "finetune --unfreeze blocks.6 --val-share 0.2 --from-cache --epochs 1",
    }
    last = {"cache prune": "cache prune --model efficientnet_lite0"}
    keys = keys_of_json()
    del keys["serve"]  # it goes on until it is ended: the fixture `serving`
    runs |= {name: name for name in keys if name not in runs | last} | last
    for name, command in runs.items():
        printed = [bottleneck(*each.split(), "--json").out for each in command.split("; ")]
        lines = printed[0].splitlines() if name == "predict" else printed
        found = [each for line in lines for each in listed(json.loads(line))]
        always, whole = keys[name]
        assert found, name
        assert set.union(*map(set, found)) == whole, name
        assert all(always <= entry.keys() for entry in found), name
        assert all(key.isidentifier() for key in whole), name


def listed(found):
    return found if isinstance(found, list) else [found]


def test_the_readme_is_short():
    """It has two pictures: of a report, and of a terminal."""
    assert README.count("\n") <= 150
    assert README.count("![") == 2


def test_the_readmes_installations_are_one_line_each():
    lines = [block.strip() for block in blocks("") if block.startswith("pip")]
    assert lines == [
        "pip install -e '.[demo]' && bottleneck demo",
        "pip install -e '.[test]' && pytest -n auto",
        "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu",
    ]


@pytest.mark.ci
def test_the_readmes_python_runs(in_demo, capsys):
    assert in_demo.code == 0
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "data/face/000.png face {'face': 0.9" in printed
    assert Path("heads/from-python/head.json").exists()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    text = PAGES[page].read_text()
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        place, _, heading = target.partition("#")
        notebook = re.sub(r"^(\.\./)*notebooks/(\w+)\.md$", r"notebooks/\2.ipynb", place)
        if notebook != place:  # the site shows a notebook as a page
            assert (ROOT / notebook).exists(), target
            continue
        layout = place.removeprefix("../") == "layout.md"  # likewise this page
        file = ROOT / "cache/README.md" if layout else (PAGES[page].parent / place).resolve()
        if place:
            assert file.exists(), target
        if heading and file.suffix == ".md":
            linked = (file if place else PAGES[page]).read_text()
            headings = re.findall(r"^#+ (.*)", linked, re.MULTILINE)
            assert heading in map(anchor, headings), target
    for target in re.findall(r"`(notebooks/\S+?)`", text):
        assert (ROOT / target).exists(), target


def anchor(heading: str) -> str:
    """Return the anchor that the site and repositories give a heading."""
    return re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-")


def kinds(cell) -> list[str]:
    """The kinds of what a cell shows, in order; text may come in any number of pieces."""
    shown = (each.output_type for each in cell.outputs if each.get("name") != "stderr")
    return [kind for kind, _ in groupby(shown)]


def words(cell) -> list[str]:
    """What a cell prints or shows, word by word; warnings of other libraries left out."""
    shown = [output for output in cell.outputs if output.get("name") != "stderr"]
    texts = [output.get("text") or output["data"].get("text/plain", "") for output in shown]
    return re.split(r"[\s,()%]+", " ".join(texts))


@pytest.mark.parametrize(
    "notebook",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.ci] if number else [])
        for number, path in enumerate(NOTEBOOKS)
    ],
)
def test_a_notebook_prints_its_saved_outputs(notebook, tmp_path, monkeypatch):
    """Executed from top to bottom. Of all but the first, only the kinds of what is shown are the
    same, as processors compute other last digits."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # it works in a temporary folder
    saved, fresh = (nbformat.read(notebook, as_version=4) for _ in range(2))
    client = NotebookClient(fresh, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    codes = [
        (old, new)
        for old, new in zip(saved.cells, fresh.cells, strict=True)
        if old.cell_type == "code"
    ]
    assert sum(bool(old.outputs) for old, _ in codes) >= 5
    for old, new in codes:
        assert kinds(old) == kinds(new)
        if notebook != NOTEBOOKS[0]:  # others differ between processors
            continue
        for one, other in zip(words(old), words(new), strict=True):
            if re.fullmatch(r"\d\.\d+", one):
                assert float(other) == pytest.approx(float(one), abs=0.03)
            else:
                assert one == other


def test_notebooks_are_small_and_tell_no_paths():
    for path in NOTEBOOKS:
        assert path.stat().st_size < 100_000, path
        assert "/tmp/" not in path.read_text(), path


def test_the_table_of_models_is_what_the_command_prints(bottleneck):
    """`bottleneck models --markdown > docs/models.md` writes it again."""
    assert (ROOT / "docs" / "models.md").read_text() == bottleneck("models", "--markdown").out


def test_the_example_of_a_base_of_ones_own(monkeypatch):
    """The code on the page runs, and its names are those of the library."""
    page = (ROOT / "docs" / "bases.md").read_text()
    code, tests = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    package = ModuleType("my_package")
    package.MyNet = torchvision.models.squeezenet1_1
    package.MyNet.state_dict_of_release_1 = lambda: package.MyNet().state_dict()
    monkeypatch.setitem(sys.modules, "my_package", package)
    names: dict = {}
    exec(code, names)
    model = names["my_net"]()
    assert Network(model).in_order([model.default_layer]) == ("features.12.cat",)
    assert model.library == "my_package"
    exec(tests, names)
    assert names["TestMyNet"].model == model.name
