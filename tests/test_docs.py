"""The README, the notebook and the demo work as described. About 8 s in the first tier."""

import json
import re
import shlex
import shutil
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import BytesIO, TextIOWrapper
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pytest
import torchvision
from conftest import Finished
from nbclient import NotebookClient
from PIL import Image

from bottleneck.bases.network import Network
from bottleneck.cli import main
from bottleneck.cli.command import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


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


@pytest.mark.ci
def test_the_readmes_commands_run(bottleneck, in_demo):
    """All except installations and those for the user's own images, on the demo's files."""
    assert in_demo.code == 0
    first, own, after_demo = [block for block in blocks("") if block.startswith("bottleneck")]
    assert first == "bottleneck auto data --minutes 10\n"  # test_auto.py runs it
    assert own.splitlines()[:2] == [
        "bottleneck extract --model vgg16 --layer block5_pool",
        "bottleneck fit-head --clf svm",
    ]
    for line in after_demo.splitlines():
        finished = bottleneck(*shlex.split(line)[1:])
        assert finished.code == 0, (line, finished.err)
        assert finished.out or finished.err
    assert Path("mine.png").exists()


@pytest.mark.ci
def test_the_commands_on_the_cache_run(bottleneck, in_demo):
    """The commands of docs/cache.md on the demo's files, and its Python."""
    assert in_demo.code == 0
    page = (ROOT / "docs" / "cache.md").read_text()
    commands, _ = re.findall(r"^```\n(bottleneck .*?)^```", page, re.MULTILINE | re.DOTALL)
    for line in commands.splitlines():
        finished = bottleneck(*shlex.split(line)[1:])
        assert finished.code == 0, (line, finished.err)
        assert finished.out or finished.err
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert "penultimate" in finished.out  # the last command has removed it
    assert "no banks" in bottleneck("cache", "ls").out
    names: dict = {}
    exec(code, names)
    assert names["X"].shape == (200, 1280)


@pytest.mark.ci
def test_the_commands_and_the_python_of_heads_run(bottleneck, in_demo, capsys):
    """The commands of docs/heads.md on the demo's files."""
    assert in_demo.code == 0
    page = (ROOT / "docs" / "heads.md").read_text()
    commands = "".join(re.findall(r"^```\n(bottleneck .*?)^```", page, re.MULTILINE | re.DOTALL))
    for line in commands.splitlines():
        finished = bottleneck(*shlex.split(line)[1:])
        assert finished.code == 0, (line, finished.err)
        assert finished.out
    for code in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(compile(code, "heads.md", "exec"), {})
    told = capsys.readouterr().out
    assert "headclassifier__clf" in told
    assert "blocks.4 (avg) + efficientnet_lite0 penultimate" in told


@pytest.mark.ci
def test_the_commands_and_the_python_of_reports_run(bottleneck, in_demo):
    """The commands of docs/report.md on the demo's files."""
    assert in_demo.code == 0
    page = (ROOT / "docs" / "report.md").read_text()
    before = (
        "extract --model efficientnet_lite0",
        "fit-head --C 0.01 --name mine",
        "fit-head --clf lda --name other",
    )
    commands = "".join(re.findall(r"^```\n(bottleneck .*?)^```", page, re.MULTILINE | re.DOTALL))
    for line in (*before, *(each.partition(" ")[2] for each in commands.splitlines())):
        finished = bottleneck(*shlex.split(line))
        assert finished.code == 0, (line, finished.err)
    assert Path("report/index.html").is_file()
    for code in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(compile(code, "report.md", "exec"), {})


@pytest.mark.ci
def test_the_python_of_serving_runs(bottleneck, in_demo, monkeypatch):
    """The Python of docs/serve.md, and paths on standard input, on the demo's files."""
    assert in_demo.code == 0
    page = (ROOT / "docs" / "serve.md").read_text()
    for command in ("extract --model efficientnet_lite0", "fit-head --clf svm --name svm"):
        assert bottleneck(*shlex.split(command)).code == 0
    for name, number in (("photo", 0), ("a", 1), ("b", 2)):
        Image.open(f"data/face/00{number}.png").convert("RGB").save(f"{name}.jpg")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(compile(code, "serve.md", "exec"), {})
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"a.jpg\0b.jpg\0")))
    lines = bottleneck("predict", "-", "--json").out.splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["a.jpg", "b.jpg"]


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


def test_the_readmes_installations_are_one_line_each():
    lines = [block.strip() for block in blocks("") if block.startswith("pip")]
    assert lines == [
        "pip install -e '.[demo]' && bottleneck demo",
        "pip install -e '.[test]' && pytest -n auto",
    ]


@pytest.mark.ci
def test_the_readmes_python_runs(in_demo, capsys):
    assert in_demo.code == 0
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "data/face/000.png face {'face': 0.9" in printed
    assert Path("heads/from-python/head.json").exists()


def test_links_in_the_readme_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target.partition("#")[0]).exists(), target
    for target in re.findall(r"`(notebooks/\S+)`", README):
        assert (ROOT / target.partition("#")[0]).exists(), target


def words(cell) -> list[str]:
    """What a cell prints or shows, word by word; warnings of other libraries left out."""
    shown = [output for output in cell.outputs if output.get("name") != "stderr"]
    texts = [output.get("text") or output["data"].get("text/plain", "") for output in shown]
    return re.split(r"[\s,()%]+", " ".join(texts))


@pytest.mark.ci
def test_the_notebook_prints_its_saved_outputs(tmp_path, monkeypatch):
    """Executed from top to bottom, it prints the saved outputs."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # it works in a temporary folder
    saved = nbformat.read(ROOT / "notebooks/01_quick_start.ipynb", as_version=4)
    fresh = nbformat.read(ROOT / "notebooks/01_quick_start.ipynb", as_version=4)
    client = NotebookClient(fresh, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    codes = [
        (old, new)
        for old, new in zip(saved.cells, fresh.cells, strict=True)
        if old.cell_type == "code"
    ]
    assert sum(bool(old.outputs) for old, _ in codes) >= 7
    for old, new in codes:
        for one, other in zip(words(old), words(new), strict=True):
            if re.fullmatch(r"\d\.\d+", one):
                assert float(other) == pytest.approx(float(one), abs=0.03)
            else:
                assert one == other


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
