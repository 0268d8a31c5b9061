"""Commands: output, files, and one sentence for each mistake. About 15 s in the first tier."""

import contextlib
import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import typer
from conftest import Finished, layer_record, run_record
from hypothesis import given
from hypothesis import strategies as st

from bottleneck import Cache, Head, ImageSet
from bottleneck.bases import find_model
from bottleneck.cli import app, options
from bottleneck.cli.output import progress_shown

NATIVE = ("--model", "squeezenet1_1", "--weights", "random", "--layer", "features.12")
TINY = (*NATIVE, "--image-size", "64")
HEAD = "squeezenet1_1-features.12-64x64-svm"


@pytest.fixture
def _extracted(bottleneck, make_images):
    """A folder with data/ and an extraction of it."""
    make_images(cat=8, dog=8)
    assert bottleneck("extract", *TINY).code == 0


def commands(group=None, prefix=()):
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name), command


def test_every_command_and_option_has_help():
    found = dict(commands())
    assert set(found) == {
        ("extract",),
        ("finetune",),
        ("fit-head",),
        ("evaluate",),
        ("predict",),
        ("export",),
        ("serve",),
        ("similar",),
        ("layers",),
        ("models",),
        ("leaderboard",),
        ("sweep",),
        ("auto",),
        ("advise",),
        ("report",),
        ("suspects",),
        ("suggest",),
        ("config",),
        ("demo",),
        ("augment-preview",),
        *((("cache", name)) for name in ("verify", "compact", "prune", "export", "import")),
        ("cache", "ls"),
        ("cache", "info"),
    }
    for name, command in found.items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), (name, parameter.name)


def test_every_command_that_prints_a_table_prints_json():
    for name, command in commands():
        assert "as_json" in {parameter.name for parameter in command.params}, name


def test_the_version_is_printed(bottleneck):
    assert bottleneck("--version").out.strip() == "2026.12.0"
    assert bottleneck("--version", "nonsense").out.strip() == "2026.12.0"


def test_a_missing_command_is_refused(bottleneck):
    finished = bottleneck("--")
    assert finished.code == 2
    assert "Missing command" in finished.err


def test_commands_run_outside_the_main_thread(bottleneck):
    with ThreadPoolExecutor() as pool:
        assert pool.submit(bottleneck, "--version").result().code == 0


@pytest.mark.usefixtures("_extracted")
def test_letters_that_the_picture_lacks_print_no_warnings(bottleneck):
    Path("data/dog").rename("data/漢字")
    bottleneck("extract", *TINY)
    bottleneck("fit-head", "--clf", "centroid")
    evaluated = bottleneck("evaluate", "--picture", "confusion.png")
    assert evaluated.code == 0
    assert "Glyph" not in evaluated.err


@pytest.mark.usefixtures("_extracted")
def test_every_step_prints_text_and_json(bottleneck):
    """Extract, fit, evaluate, predict; each time as text and as JSON."""
    again = bottleneck("extract", *TINY, "--json")
    record = json.loads(again.out)
    assert (record["images"], record["computed"], record["cached"]) == (16, 0, 16)
    assert record["weights_random"]
    assert "weights are random" in again.err

    fitted = bottleneck("fit-head", "--clf", "svm")
    assert fitted.code == 0
    assert f"saved as heads/{HEAD}" in fitted.out
    metadata = json.loads(bottleneck("fit-head", "--clf", "svm", "--json").out)
    assert metadata["classes"] == ["cat", "dog"]
    assert metadata["source"]["weights"] == "random:0"

    evaluated = bottleneck("evaluate", "--picture", "confusion.png")
    assert "95% interval" in evaluated.out
    assert Path("confusion.png").stat().st_size > 5000
    metrics = json.loads(bottleneck("evaluate", "--json").out)
    assert metrics["images"] == 4
    recall, (low, high) = (metrics["classes"][0][name] for name in ("recall", "recall_interval"))
    assert f"{recall:.3f} ({low:.2f} to {high:.2f})" in evaluated.out  # whole, in 80 columns
    assert max(map(len, evaluated.out.splitlines())) <= 80
    head = Path("heads", HEAD)
    assert json.loads((head / "evaluation-test.json").read_text())["images"] == 4
    (head / "evaluation-test.json").unlink()
    assert bottleneck("evaluate", "--head", f"{head}/", "--heads", "elsewhere").code == 0
    assert (head / "evaluation-test.json").exists()

    predicted = bottleneck("predict", "data/cat", "data/dog/000.png")
    rows = list(csv.reader(io.StringIO(predicted.out)))
    assert rows[0] == ["path", "class", "p(cat)", "p(dog)", "novelty"]
    assert len(rows) == 10
    lines = bottleneck("predict", "--json", "data/cat").out.splitlines()
    first = json.loads(lines[0])
    assert first["class"] == max(first["probabilities"], key=first["probabilities"].get)
    assert sum(first["probabilities"].values()) == pytest.approx(1)


def in_a_shell(command: str) -> Finished:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        shell=True, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path},
    )  # fmt: skip
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("shell", [False, pytest.param(True, marks=pytest.mark.ci)])
def test_the_users_two_commands_exactly_as_they_stand(bottleneck, make_images, tmp_path, shell):
    """In a folder that holds data/, with torchvision's weights in torch's own cache."""
    make_images(cat=4, dog=4)
    checkpoints = tmp_path / "torch/hub/checkpoints"
    checkpoints.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(
        find_model("vgg16").build((224, 224)).state_dict(), checkpoints / "vgg16-397923af.pth"
    )
    for command in (
        "bottleneck extract --model vgg16 --layer block5_pool",
        "bottleneck fit-head --clf svm",
    ):
        finished = in_a_shell(command) if shell else bottleneck(*shlex.split(command)[1:])
        assert finished.code == 0, finished.err
        assert "Traceback" not in finished.err
    assert Path("heads/vgg16-block5_pool-svm/head.safetensors").exists()
    record = json.loads(next(Path("cache/runs").iterdir()).read_text())
    assert record["weights"] == "IMAGENET1K_V1"
    assert not record["weights_random"]


def test_a_folder_without_classes_is_reported_at_extract(bottleneck, make_images):
    make_images("flat", images=3)
    asked = ("extract", "--model", "squeezenet1_1", "--weights", "random", "--data")
    done = bottleneck(*asked, "flat/images")
    assert done.code == 0
    assert "3 images of 'images': without classes, as no folder or table names any" in done.err
    assert "takes DATA/CLASS/IMAGE, or a table with path,label" in done.err
    make_images(cat=2, dog=2)
    assert "without classes" not in bottleneck(*asked, "data").err


def test_missing_weights_are_one_sentence(bottleneck, make_images):
    make_images(cat=3, dog=3)
    finished = bottleneck("extract", "--model", "vgg16", "--layer", "block5_pool")
    assert finished.code == 1
    assert finished.err.startswith("6 images of 'data': 2 classes\n")
    *_, line = finished.err.strip().splitlines()
    for part in ("torch/hub/checkpoints", "--weights FILE", ".safetensors", "--weights random"):
        assert part in line
    assert not Path("cache").exists()


def test_bad_images_are_named_and_the_exit_code_says_so(bottleneck, make_images):
    make_images(cat=4, dog=4)
    Path("data/cat/cut.png").write_bytes(Path("data/cat/000.png").read_bytes()[:500])
    finished = bottleneck("extract", *TINY)
    assert finished.code == 1
    assert "8 images of 'data'" in finished.out
    assert "1 image could not be used" in finished.err
    assert "data/cat/cut.png: image file is truncated" in finished.err
    assert bottleneck("fit-head", "--C", "1").code == 0
    predicted = bottleneck("predict", "data/cat")
    assert predicted.code == 1
    assert len(predicted.out.splitlines()) == 5
    assert "data/cat/cut.png" in predicted.err
    lines = [
        json.loads(line) for line in bottleneck("predict", "--json", "data/cat").out.splitlines()
    ]
    assert [line["path"] for line in lines if "error" in line] == ["data/cat/cut.png"]


def test_leaks_conflicts_and_strangers_are_reported(bottleneck, make_images):
    make_images("data/train", cat=4, dog=4)
    make_images("data/test", cat=2, dog=2, seed=3)
    shutil.copy("data/train/cat/000.png", "data/test/cat/leak.png")
    shutil.copy("data/train/cat/001.png", "data/train/dog/conflict.png")
    Path("data/train/cat/notes.txt").touch()
    finished = bottleneck("extract", *TINY)
    assert finished.code == 0
    assert "warning: leak: 1 identical image is in more than one split:" in finished.err
    assert "data/train/cat/001.png = data/train/dog/conflict.png" in finished.err
    assert "1 .txt" in finished.err
    for command in (
        ("fit-head", "--C", "1"),
        ("evaluate",),
        ("sweep", "--clf", "centroid", "--cv", "2", "--jobs", "1"),
    ):
        err = bottleneck(*command).err
        assert "leak: 1 identical image is in more than one split; 'bottleneck extract'" in err
        assert "more than one label; 'bottleneck extract' lists them" in err
        assert "conflict.png" not in err
        assert "leak.png" not in err


def test_layers_and_models_are_listed(bottleneck):
    printed = bottleneck("layers", "vgg16", "--wide")
    line = next(line for line in printed.out.splitlines() if "block5_pool" in line)
    assert line.split()[:5] == ["features.30", "block5_pool,", "block.4,", "block.-1", "512"]
    assert line.split()[-3:] == ["25088", "50.18", "99.2"]
    rows = json.loads(bottleneck("layers", "resnet18", "--json").out)
    (row,) = (row for row in rows if row["layer"] == "flatten")
    assert row["aliases"] == ["avg_pool", "penultimate", "embedding"]
    assert row["shape"] == [512]
    assert row["floats"] == 512
    assert row["megabytes_per_1000"] == 1.024
    assert row["cost_percent"] == pytest.approx(100 * (1 - 512 * 1000 / 1.814e9), abs=1e-3)
    rows = {row["model"]: row for row in json.loads(bottleneck("models", "--json").out)}
    assert {"vgg16", "resnet50", "efficientnet_lite0", "vit_b_16", "xception"} <= set(rows)
    assert rows["resnet50"] == {
        "model": "resnet50",
        "library": "torchvision",
        "parameters": 25557032,
        "input": [224, 224],
        "weights": ["IMAGENET1K_V2", "IMAGENET1K_V1"],
        "default_layer": "penultimate",
        "top_1": 80.858,
    }
    assert rows["resnet152v2"]["weights"] == []
    refused = bottleneck("models", "--json", "--markdown")
    assert (refused.code, refused.out) == (2, "")
    assert "--markdown and --json exclude each other" in refused.err


@pytest.mark.usefixtures("_extracted")
def test_replacing_a_head_is_noted(bottleneck):
    assert "replaces" not in bottleneck("fit-head").err
    assert "note: this replaced the head of the same name" in bottleneck("fit-head").err
    (row,) = json.loads(bottleneck("cache", "ls", "--json").out)
    assert (row["input"], row["pool"], row["dtype"]) == ([64, 64], "none", "float16")


@pytest.mark.usefixtures("_extracted")
def test_cache_ls_and_info_show_how_features_were_computed(bottleneck):
    (row,) = json.loads(bottleneck("cache", "ls", "--json").out)
    assert row["model"] == "squeezenet1_1"
    assert row["weights"] == "random:0"
    assert (row["rows"], row["parts"]) == (16, 1)
    listed = bottleneck("cache", "ls").out
    assert row["bank"] in listed
    assert all(line == line.rstrip() for line in listed.splitlines())
    (info,) = json.loads(bottleneck("cache", "info", "squeeze", "--json").out)
    assert info["layers"]["features.12.cat"]["rows"] == 16
    assert info["transform"]["crop"] == [64, 64]
    assert "precision.storage" in bottleneck("cache", "info", row["bank"]).out
    assert "no banks" in bottleneck("cache", "ls", "--cache", "empty").out
    assert json.loads(bottleneck("cache", "ls", "--cache", "empty", "--json").out) == []


def test_processes_that_are_replaced_are_no_news():
    with options.in_parallel(2):
        warnings.warn("A worker stopped while some jobs were given to the executor.", stacklevel=1)
    with pytest.raises(UserWarning, match="another"):
        warnings.warn("another", stacklevel=1)


def test_the_deepest_layer_and_the_newest_head_are_taken_and_told(bottleneck, make_images):
    make_images(cat=6, dog=6)
    bottleneck("extract", *TINY, "--layer", "features.3")
    finished = bottleneck("fit-head", "--clf", "svm", "--C", 1)
    assert "features.12 is the deepest of 2 layers; --layer takes another (features.3)" in (
        finished.err
    )
    assert "features of squeezenet1_1 features.12 (64x64)\n" in finished.out
    exported = bottleneck("cache", "export", "x.npz")
    assert "features.12 is the deepest of 2 layers" in exported.err
    assert "newest" not in bottleneck("evaluate").err
    assert bottleneck("fit-head", "--layer", "features.3", "--C", 1, "--name", "early").code == 0
    for command in (("evaluate",), ("predict", "data/cat/000.png")):
        assert "early is the newest of 2 heads; --head takes another" in bottleneck(*command).err
    finished = bottleneck("evaluate", "--head", HEAD)
    assert "newest" not in finished.err


def only_folder(_make_images):
    Path("data").mkdir()


def one_class(make_images):
    make_images(cat=3)


def lonely_class(make_images):
    make_images(cat=3, dog=1)


def two_classes(make_images):
    make_images(cat=3, dog=3)


def no_columns(make_images):
    make_images(cat=3, dog=3)
    Path("list.csv").write_text("thing,species\ndata/cat/000.png,cat\n")


def missing_files(make_images):
    make_images(cat=3, dog=3)
    Path("list.csv").write_text("path,label\ndata/away.png,cat\ndata/gone.png,dog\n")


def other_weights(make_images):
    make_images(cat=3, dog=3)
    torch.save(find_model("squeezenet1_1").build((224, 224)).state_dict(), "squeezenet1_1.pth")


def other_run(make_images):
    make_images(cat=3, dog=3)
    Path("cache/runs").mkdir(parents=True)
    Path("cache/runs/20261101T000000000000-0000.json").write_text("{}")


def other_set(make_images):
    make_images(cat=3, dog=3)
    Path("cache/runs").mkdir(parents=True)
    Path("cache/sets").mkdir(parents=True)
    Path("cache/sets/data.csv").write_text("a,b\n1,2\n")
    Cache("cache").record_run(run_record(layers=[layer_record()]))


def cache_in_the_way(make_images):
    make_images(cat=3, dog=3)
    Path("cache").write_text("a file")


@pytest.mark.parametrize(
    ("prepare", "arguments", "code", "sentence"),
    [
        (None, ("extract", *TINY), 2, "no folder 'data'; give a folder"),
        (None, ("extract", *TINY, "--data", "x.csv"), 2, "no folder 'x.csv'"),
        (only_folder, ("extract", *TINY), 1, "no images in 'data'; expected 'data/CLASS/IMAGE'"),
        (one_class, ("extract", *TINY), 1, "'data' has only one class, 'cat'"),
        (lonely_class, ("extract", *TINY), 1, "class 'dog' has 1 usable image"),
        (two_classes, ("extract", "--model", "resnet5"), 2, "did you mean 'resnet50'?"),
        (
            two_classes,
            ("extract", "--model", "vgg16", "--layer", "block5_pol", "--weights", "random"),
            2,
            "'bottleneck layers vgg16' lists them all; did you mean 'block5_pool'?",
        ),
        (no_columns, ("extract", *TINY, "--data", "list.csv"), 2, "has no column path and no"),
        (
            missing_files,
            ("extract", *TINY, "--data", "list.csv"),
            2,
            "lists 2 images, of which none",
        ),
        (
            other_weights,
            ("extract", "--model", "vgg16", "--weights", "squeezenet1_1.pth"),
            1,
            "weights 'squeezenet1_1.pth' do not fit vgg16",
        ),
        (
            two_classes,
            ("extract", "--model", "vgg16", "--weights", "gone.pth"),
            2,
            "no weights file 'gone.pth'",
        ),
        (cache_in_the_way, ("extract", *TINY), 1, "cannot write to the cache folder 'cache'"),
        (two_classes, ("extract", *TINY, "--cache", "/proc/x"), 1, "cannot write to the cache"),
        (
            two_classes,
            ("extract", *TINY, "--dtype", "int8"),
            2,
            "--dtype must be float16 or float32, got 'int8'",
        ),
        (two_classes, ("extract", *TINY, "--data", "data/cat/000.png"), 2, "cannot be read as a"),
        (two_classes, ("extract", *TINY, "--set", "../x"), 2, "'../x' is not a valid name"),
        (
            two_classes,
            ("extract", "--model", "vgg16", "--weights", "random:" + "9" * 30),
            2,
            "no w",
        ),
        (other_set, ("fit-head",), 1, "the image set 'cache/sets/data.csv' cannot be read"),
        (other_run, ("fit-head",), 1, "does not match its digest"),
        (two_classes, ("fit-head", "--name", ".."), 2, "'..' is not a valid name"),
        (two_classes, ("fit-head", "--name", "a/b"), 2, "'a/b' is not a valid name"),
        (None, ("evaluate", "--head", ""), 2, "no head '' in 'heads'"),
        (None, ("evaluate", "--head", "../x"), 2, "no head '../x' in 'heads'"),
        (None, ("fit-head",), 1, "no extraction in the cache folder 'cache'"),
        (None, ("evaluate",), 1, "no heads in 'heads'"),
        (None, ("evaluate", "--head", "x"), 2, "no head 'x' in 'heads'"),
        (None, ("predict", "x.png"), 1, "no heads in 'heads'"),
        (
            None,
            ("layers", "vgg61"),
            2,
            "'vgg61'; 'bottleneck models' lists them all; did you mean 'vgg",
        ),
        (None, ("cache", "info", "x"), 2, "no bank 'x' in 'cache', which has none"),
    ],
)
def test_a_mistake_is_one_sentence(  # noqa: PLR0917 - a table's columns
    bottleneck, make_images, prepare, arguments, code, sentence
):
    """No traceback, the right exit code, and nothing half-written."""
    if prepare:
        prepare(make_images)
    before = sorted(path for path in Path().rglob("*"))
    finished = bottleneck(*arguments)
    assert finished.code == code
    assert not finished.out
    *summary, line = finished.err.strip().splitlines()
    assert line.startswith("error: ")
    assert not summary or (arguments[0] == "extract" and re.match(r"\d+ images? of", summary[0]))
    assert sentence in line
    assert sorted(path for path in Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("evaluate",), 1, "no heads in 'heads'; 'bottleneck fit-head' creates one"),
        (("fit-head", "--clf", "smv"), 2, "did you mean 'svm'?"),
        (("extract", "--model", "nothing"), 2, "no folder 'data'"),
        (("extract", "--modle", "x"), 2, "No such option"),
        (("predict",), 2, "IMAGES is missing"),
        (("cache", "nothing"), 2, "No such command"),
        (("layers", "resnet18", "--config", "no.toml"), 2, "no file 'no.toml'"),
    ],
)
def test_errors_are_json_where_results_are(bottleneck, arguments, code, sentence):
    """Once, as the last line of standard error."""
    finished = bottleneck(*arguments, "--json")
    assert (finished.code, finished.out) == (code, "")
    found = json.loads(finished.err.splitlines()[-1])
    assert found["exit_code"] == code
    assert sentence in found["error"]
    plain = bottleneck(*arguments)
    assert plain.code == code
    assert "{" not in plain.err


def test_json_may_be_set_in_the_file_of_settings(bottleneck):
    Path("bottleneck.toml").write_text("[evaluate]\njson = true\n")
    assert "no heads" in json.loads(bottleneck("evaluate").err)["error"]


def test_unknown_options_are_bad_usage(bottleneck):
    finished = bottleneck("extract", "--modle", "vgg16")
    assert finished.code == 2
    assert "No such option" in finished.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("extract", *TINY, "--batch-size", "0"),
        ("predict", "--batch-size", "-1", "data"),
        ("extract", *TINY, "--seed", "-1"),
        ("fit-head", "--seed", "99999999999"),
    ],
)
def test_numbers_out_of_range_are_bad_usage(bottleneck, arguments):
    finished = bottleneck(*arguments)
    assert finished.code == 2
    assert re.search("--(seed|batch-size|views) must be .* whole number", finished.err)


@pytest.mark.usefixtures("_extracted")
def test_a_head_never_replaces_another_folder(bottleneck):
    """Images and other files in the named folder stay."""
    finished = bottleneck("fit-head", "--C", "1", "--heads", ".", "--name", "data")
    assert finished.code == 2
    assert "'data' already exists and is not a head folder" in finished.err
    assert len(list(Path("data").rglob("*.png"))) == 16
    Path("file").touch()
    finished = bottleneck("fit-head", "--C", "1", "--heads", "file")
    assert finished.code == 1
    assert "cannot be saved as 'file/" in finished.err
    assert not list(Path().glob("**/.*.partial"))


@pytest.mark.usefixtures("_extracted")
def test_splits_and_pictures_that_do_not_exist(bottleneck):
    bottleneck("fit-head", "--C", "1")
    finished = bottleneck("evaluate", "--split", "foo")
    assert finished.code == 2
    assert "--split must be train, val or test, got 'foo'" in finished.err
    finished = bottleneck("evaluate", "--picture", "a.xyz")
    assert finished.code == 2
    assert "expected a name in .png, .svg, .pdf" in finished.err


def test_a_validation_image_that_becomes_a_test_image_is_noticed(bottleneck, make_images):
    """C was chosen on it, so it is left out."""
    for seed, split in enumerate(("train", "val", "test")):
        make_images(f"data/{split}", cat=4, dog=4, seed=seed)
    bottleneck("extract", *TINY)
    fitted = bottleneck("fit-head", "--balanced").out
    assert "chosen on validation images" in fitted
    assert "balanced = True" in fitted
    Path("data/val/cat/000.png").rename("data/test/cat/moved.png")
    bottleneck("extract", *TINY)
    finished = bottleneck("evaluate", "--json")
    assert json.loads(finished.out)["images"] == 8
    assert "have changed since the head was fitted; 1 of 9 test images left out" in finished.err


def test_no_image_is_said_to_be_left_out_if_none_was(bottleneck, make_images):
    """The set has changed, but the head has seen no test image."""
    for seed, split in enumerate(("train", "test")):
        make_images(f"data/{split}", cat=4, dog=4, seed=seed)
    bottleneck("extract", *TINY)
    bottleneck("fit-head")
    make_images("data/train", cat=5, dog=4, seed=2)
    bottleneck("extract", *TINY)
    finished = bottleneck("evaluate", "--json")
    assert json.loads(finished.out)["images"] == 8
    assert "left out" not in finished.err


@pytest.mark.parametrize("options", [("--clf", "centroid"), ("--C", "0.01")])
def test_a_head_without_a_held_out_score_is_said_to_have_none(bottleneck, make_images, options):
    make_images("data/train", cat=1, dog=1)
    bottleneck("extract", *TINY)
    finished = bottleneck("fit-head", *options)
    assert finished.code == 0
    assert "note: no held-out score could be computed" in finished.err
    assert "" not in finished.out.splitlines()


@pytest.mark.usefixtures("_extracted")
def test_a_damaged_image_set_or_record_is_not_used(bottleneck):
    """One flipped letter in a split, a label or a record."""
    bottleneck("fit-head", "--C", "1")
    file = Path("cache/sets/data.csv")
    whole = file.read_text()
    for old, new in (('"test"', '"tEst"'), ('"cat","test"', '"dog","test"'), ('"test"', '"val"')):
        assert old in whole
        file.write_text(whole.replace(old, new, 1))
        finished = bottleneck("evaluate")
        assert finished.code == 1
        assert "extract" in finished.err
        assert not finished.out
    file.write_text(whole)
    (record,) = Path("cache/runs").iterdir()
    record.write_text(record.read_text().replace("squeezenet1_1", "squeezenet1_0", 1))
    finished = bottleneck("fit-head")
    assert finished.code == 1
    assert "does not match its digest" in finished.err


@pytest.mark.usefixtures("_extracted")
def test_predicting_overlapping_folders_with_strangers(bottleneck):
    bottleneck("fit-head", "--C", "1")
    Path("data/cat/notes.txt").touch()
    finished = bottleneck("predict", "data/cat", "data/cat/000.png", "data")
    rows = [row["path"] for row in csv.DictReader(io.StringIO(finished.out))]
    cats = [f"data/cat/{number:03d}.png" for number in range(8)]
    assert rows == [*cats, cats[0], *cats, *(each.replace("cat", "dog") for each in cats)]
    assert "1 .txt" in finished.err


def test_leaks_are_recorded_with_the_evaluation(bottleneck, make_images):
    make_images("data/train", cat=4, dog=4)
    make_images("data/test", cat=2, dog=2, seed=3)
    shutil.copy("data/train/cat/000.png", "data/test/cat/leak.png")
    assert len(json.loads(bottleneck("extract", *TINY, "--json").out)["leaks"]) == 1
    bottleneck("fit-head", "--C", "1")
    finished = bottleneck("evaluate", "--json")
    assert json.loads(finished.out)["leaks"] == 1
    assert "warning: leak" in finished.err


def test_odd_names_come_back_from_the_cache(bottleneck, make_images):
    """Line breaks, quotes and commas in names and labels."""
    make_images("data", **{"a,b": 4, 'c"\r': 4})
    Path("data/a,b/000.png").rename("data/a,b/x\ry.png")
    assert bottleneck("extract", *TINY).code == 0
    fitted = bottleneck("fit-head", "--C", "1", "--json")
    assert json.loads(fitted.out)["classes"] == ["a,b", 'c"\r']
    rows = list(csv.reader(io.StringIO(bottleneck("predict", "data").out, newline="")))
    assert {len(row) for row in rows} == {5}
    assert len(rows) == 9


def test_a_too_long_set_name_is_reported_before_any_work(bottleneck, make_images):
    make_images("n" * 240, cat=3, dog=3)
    finished = bottleneck("extract", *TINY, "--data", "n" * 240)
    assert finished.code == 2
    assert "give a shorter one with --set" in finished.err


def test_weights_damaged_in_torchs_cache(bottleneck, make_images, tmp_path):
    make_images(cat=3, dog=3)
    checkpoints = tmp_path / "torch/hub/checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "resnet18-f37072fd.pth").write_text("garbage")
    finished = bottleneck("extract", "--model", "resnet18")
    assert finished.code == 1
    assert "are damaged" in finished.err
    assert "delete resnet18-f37072fd.pth there" in finished.err


@pytest.mark.usefixtures("_extracted")
def test_a_changed_training_set_is_not_evaluated(bottleneck, make_images):
    """With a head of an earlier version, which does not tell the images that it has seen."""
    bottleneck("fit-head", "--C", "1", "--name", "one")
    make_images(cow=4, seed=9)
    bottleneck("extract", *TINY)
    Path("heads/one/head-seen.txt").unlink()
    finished = bottleneck("evaluate")
    assert finished.code == 1
    assert "training images of 'data' have changed since the head was fitted" in finished.err


@pytest.mark.usefixtures("_extracted")
def test_an_old_head_is_evaluated_on_images_it_has_not_seen(bottleneck, make_images):
    """After images were added, moved from train to test, and removed; copies count as seen."""
    assert bottleneck("fit-head", "--C", "1", "--name", "one").code == 0
    before = ImageSet.read_csv("cache/sets/data.csv").items
    seen = {item.digest for item in before if item.split == "train"}
    assert Head.load("heads/one").seen == seen
    make_images("new", cat=6, dog=6, seed=9)
    for item in before:
        place = "test" if item.path.endswith(("1.png", "2.png", "3.png")) else "train"
        target = Path("new", place, item.label, f"old-{Path(item.path).name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(item.path, target)
    for label in ("cat", "dog"):
        shutil.move(f"new/{label}", f"new/test/{label}/added")
    shutil.rmtree("data")
    Path("new").rename("data")
    assert bottleneck("extract", *TINY).code == 0
    now = ImageSet.read_csv("cache/sets/data.csv").items
    test = {item.digest for item in now if item.split == "test"}
    assert test & seen
    finished = bottleneck("evaluate", "--json")
    assert finished.code == 0, finished.err
    assert json.loads(finished.out)["images"] == len(test - seen)
    assert f"{len(test & seen)} of {len(test)} test images left out" in finished.err
    assert bottleneck("evaluate", "--split", "train").code == 0
    Path("heads/one/head-seen.txt").write_text("")
    assert "come from different heads" in bottleneck("evaluate").err


@pytest.mark.usefixtures("_extracted")
def test_all_images_may_have_been_seen(bottleneck):
    """Every image of the split was trained on before."""
    assert bottleneck("fit-head", "--C", "1", "--name", "one").code == 0
    for item in ImageSet.read_csv("cache/sets/data.csv").items:
        place = {"train": "test", "test": "train"}[item.split]
        target = Path("new", place, item.label, Path(item.path).name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(item.path, target)
    shutil.rmtree("data")
    Path("new").rename("data")
    assert bottleneck("extract", *TINY).code == 0
    finished = bottleneck("evaluate")
    assert finished.code == 1
    assert "was fitted or selected on all test images of 'data'" in finished.err


@pytest.mark.parametrize("gone", ["train", "val"])
def test_val_images_can_be_judged_again_after_training_images_are_gone(
    gone, bottleneck, make_images
):
    """As before, if they are those that they were; the head has seen what is left of them."""
    make_images("data/train", cat=4, dog=4)
    make_images("data/val", cat=3, dog=3, seed=1)
    assert bottleneck("extract", *TINY).code == 0
    assert bottleneck("fit-head", "--clf", "lda", "--name", "one").code == 0
    before = bottleneck("evaluate", "--split", "val")
    assert before.code == 0
    next(Path("data", gone, "cat").iterdir()).unlink()
    assert bottleneck("extract", *TINY).code == 0
    after = bottleneck("evaluate", "--split", "val")
    if gone == "train":
        assert (after.code, after.out) == (0, before.out)
    else:
        assert after.code == 1
        assert "was fitted or selected on all val images of 'data'" in after.err


def test_a_class_without_val_images_is_told(bottleneck, make_images):
    make_images("data/train", cat=4, dog=4)
    make_images("data/val", cat=3, seed=1)
    found = bottleneck("extract", *TINY)
    assert "warning: 1 class has training images but no val images, and val scores" in found.err
    assert "\n  dog\n" in found.err


@pytest.mark.usefixtures("_extracted")
def test_another_set_of_the_same_name_is_reported(bottleneck, make_images):
    """Another folder of the name, most images gone, some gone, one added, all moved."""
    make_images("other/data", cat=3, dog=3, seed=9)
    finished = bottleneck("extract", *TINY, "--data", "other/data")
    assert finished.code == 0
    assert "replaces image set 'data' of 'data' by that of 'other/data'" in finished.err
    assert "16 of its 16 images are not in the new one; give --set NAME" in finished.err
    shutil.move("other/data", "data/moved")
    shutil.rmtree("data/cat")
    shutil.rmtree("data/dog")
    Path("data/moved").rename("moved")
    moved = ("extract", *TINY, "--data", "moved", "--set", "data")
    assert "replaces image set" not in bottleneck(*moved).err
    Path("moved/cat/000.png").unlink()
    note = "note: 1 of 6 images that 'data' had at its last extraction are gone"
    assert note in bottleneck(*moved).err
    make_images("moved", cow=5, seed=20)
    added = bottleneck(*moved).err
    assert "are gone" not in added
    assert "replaces" not in added
    for path in Path("moved").glob("c*/*"):
        path.write_bytes(path.read_bytes() + b"?")
    assert "7 of its 10 images are not in the new one" in bottleneck(*moved).err


@pytest.mark.usefixtures("_extracted")
def test_a_file_of_the_user_is_not_replaced_by_an_image_set(bottleneck, calls):
    """It is told before anything is computed."""
    Path("cache/sets/data.csv").write_text("path,label\nx.png,cat\n")
    calls.clear()
    finished = bottleneck("extract", *NATIVE)
    assert finished.code == 2
    assert "is no image set that 'bottleneck extract' wrote" in finished.err
    assert not calls
    Path("cache/sets/data.csv").write_text("")
    assert bottleneck("extract", *TINY).code == 0


@pytest.mark.ci
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.ci)],
)
def test_a_signal_commits_finished_work(faces, number, code):
    """No traceback and no partial file; the number of stored images is printed."""
    base = ("--model", "vgg11", "--layer", "block5_pool", "--weights", "random")
    slow = ("--precision", "fp32", "--batch-size", "2")  # 200 images take longer than 2 s
    process = subprocess.Popen(
        [sys.executable, "-m", "bottleneck", "extract", "--data", str(faces), *base, *slow],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(Path().glob("cache/*/bank.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(2)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert not list(Path("cache").rglob("*.partial"))
    (bank,) = Cache("cache").banks()
    safe = len(bank.known("features.20"))
    assert 0 < safe < 200
    assert f"stopped: {safe} of 200 different images are stored in cache" in err


@given(
    total=st.integers(1, 2000),
    seconds=st.lists(st.floats(0, 1e5), min_size=3, max_size=3),
    counts=st.dictionaries(st.sampled_from(["cached", "bytes_written"]), st.integers(0, 10**9)),
    data=st.data(),
)
def test_lines_of_progress_say_only_what_is_known(total, seconds, counts, data):
    """At the first image nothing is known of the speed, and so nothing of the time left."""
    begun, done = sorted(data.draw(st.tuples(*[st.integers(0, total)] * 2)))
    clock = SimpleNamespace(monotonic=iter(sorted(seconds)).__next__)
    stream = io.StringIO()
    with (
        mock.patch("bottleneck.cli.output.time", clock),
        contextlib.redirect_stderr(stream),
        progress_shown() as report,
    ):
        report("check", begun, total, **counts)
        report("check", done, total, **counts)
    for line in stream.getvalue().splitlines():
        assert re.match(r"check: \d+ of (1 image|\d+ images)(, |$)", line), line
        assert not re.search(r"None|nan|inf|, ,|, $|-|\b0\.0/s", line.partition("image")[2]), line


def test_the_numbers_of_an_extraction_add_up(bottleneck, make_images):
    """Copies are neither computed nor found in the cache, and are told."""
    make_images(cat=4, dog=4)
    for number in range(3):
        shutil.copy("data/cat/000.png", f"data/cat/copy{number}.png")
    first = bottleneck("extract", *TINY)
    assert "8 computed, 0 found in the cache, 3 copies of others, " in first.out
    make_images(cat=5, dog=4)
    again = json.loads(bottleneck("extract", *TINY, "--json").out)
    assert again["images"] == again["computed"] + again["cached"] + again["copies"]
    assert again["copies"] == 3


SEVERAL = ("--model", "squeezenet1_1", "--model", "little", "--weights", "random")


def test_several_bases_are_extracted_by_one_command(bottleneck, make_images, little):
    """A record for each, and one base by itself is found in the cache; a bad image is told once."""
    folder = make_images(cat=4, dog=4)
    Path(folder, "cat", "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    asked = ("extract", *SEVERAL, "--layer", "penultimate", "--image-size", "40")
    tried = bottleneck(*asked, "--dry-run", "--json")
    assert json.loads(tried.out)["model"] == f"squeezenet1_1, {little}"
    done = bottleneck(*asked)
    assert done.code == 1
    assert re.findall(r"by (\w+) .*: (\d+) computed", done.out) == [
        ("squeezenet1_1", "8"),
        (little, "8"),
    ]
    assert done.err.count("1 image could not be used") == 1
    assert done.err.count("the weights are random") == 1
    again = json.loads(bottleneck(*asked, "--json").out)
    assert [(run["model"], run["computed"], run["cached"]) for run in again] == [
        ("squeezenet1_1", 0, 8),
        (little, 0, 8),
    ]
    alone = ("extract", "--model", little, *asked[5:], "--json")
    assert json.loads(bottleneck(*alone).out)["cached"] == 8


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--layer", "features.12"), "no layer 'features.12' in little"),
        (("--weights", "x.pth"), "--weights 'x.pth' is a file of one base, but --model names 2"),
        (("--model", "little"), "--model has 'little' more than once"),
    ],
)
def test_what_cannot_mean_all_bases_is_refused(bottleneck, make_images, options, told):
    make_images(cat=3, dog=3)
    done = bottleneck("extract", *SEVERAL, *options)
    assert done.code == 2
    assert told in done.err
    assert not Path("cache").exists()
