"""Augmentation policies: views that depend on digest, number and steps alone.

About 2 s in the first tier.
"""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torchvision.transforms import v2

from bottleneck.augment import POLICIES, Policy, find_policy
from bottleneck.augment.pipelines import EdgeAffine, EdgeElastic
from bottleneck.bases import Transform
from bottleneck.errors import BottleneckError, PathMissingError, UnknownNameError, UsageError
from bottleneck.extract import preprocess

SIZE = (72, 96)
DIGEST = "ab" * 32
CHANGING = [name for name in POLICIES if name != "none"]


def photograph(size: tuple[int, int] = SIZE) -> torch.Tensor:
    image = Image.fromarray(data.chelsea()).resize(size[::-1])
    return torch.from_numpy(np.array(image)).movedim(-1, 0).contiguous()


def views_of(policy: Policy, count: int = 6) -> list[torch.Tensor]:
    return [policy.augment(photograph(), DIGEST, view, SIZE) for view in range(1, count + 1)]


def write(text: str, name: str = "own.yaml") -> str:
    Path(name).write_text(text)
    return name


@pytest.mark.parametrize("name", CHANGING)
def test_a_view_depends_on_digest_and_number_alone(name):
    """The global generator, earlier draws and other threads have no effect."""
    policy = find_policy(name)
    expected = views_of(policy)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = [policy.augment(photograph(), DIGEST, view, SIZE) for view in (6, 5, 4, 3, 2, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, expected, reversed(again)))
    other = [policy.augment(photograph(), "cd" * 32, view, SIZE) for view in range(1, 7)]
    assert not all(map(torch.equal, expected, other))
    assert len({view.numpy().tobytes() for view in expected}) > 1


@pytest.mark.parametrize("name", CHANGING)
def test_threads_do_not_disturb_each_other(name):
    policy = find_policy(name)
    expected = views_of(policy)

    def one(view: int) -> torch.Tensor:
        torch.set_num_threads(1)
        torch.rand(view)  # others may draw from the global generator meanwhile
        return policy.augment(photograph(), DIGEST, view, SIZE)

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, [1, 2, 3, 4, 5, 6] * 3))
    torch.set_num_threads(threads)
    assert all(map(torch.equal, expected * 3, found))


@pytest.mark.ci
def test_views_are_the_same_in_another_process():
    code = f"""
import sys, hashlib
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_augment import CHANGING, find_policy, views_of
for name in CHANGING:
    views = views_of(find_policy(name), 3)
    print(name, hashlib.sha256(b"".join(view.numpy().tobytes() for view in views)).hexdigest())
"""
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": threads},
        ).stdout
        for threads in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert len(runs[0].splitlines()) == len(CHANGING)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_keeps_size_and_survives_json(name):
    policy = find_policy(name)
    assert Policy.from_dict(name, json.loads(json.dumps(policy.as_dict()))).as_dict() == (
        policy.as_dict()
    )
    for size in ((32, 32), (50, 81)):
        found = policy.augment(photograph((120, 90) if policy.whole else size), DIGEST, 1, size)
        assert (found.shape, found.dtype) == ((3, *size), torch.uint8)


def test_the_name_does_not_decide_the_pixels():
    standard = find_policy("standard")
    renamed = Policy("mine", standard.steps)
    assert all(map(torch.equal, views_of(standard), views_of(renamed)))


def test_a_warp_repeats_the_edge_pixels():
    """Views of an image without black pixels have none either."""
    bright = torch.full((3, *SIZE), 200, dtype=torch.uint8)
    bright[:, :, ::7] = 90
    for view in range(1, 13):
        for name in ("standard", "elastic"):
            assert find_policy(name).augment(bright, DIGEST, view, SIZE).min() >= 90


def moved(step: EdgeAffine, **drawn: float) -> torch.Tensor:
    """Apply a warp with draws of one's own, each from -1 to 1."""
    names = ("turn", "lean", "down", "right", "tall", "wide")
    draws = torch.tensor([(drawn.get(name, 0) + 1) / 2 for name in names], dtype=torch.float64)
    original = torch.rand
    torch.rand = lambda *_size, **_options: draws
    try:
        return step(photograph())
    finally:
        torch.rand = original


def test_an_affine_warp_follows_its_parameters():
    plain = photograph()
    assert torch.equal(moved(EdgeAffine(40, 0.2, 0.2, 0.2)), plain)
    shifted = moved(EdgeAffine(shift=0.25), right=1)
    assert torch.equal(shifted[:, :, : 96 - 24], plain[:, :, 24:])
    assert torch.equal(shifted[:, :, 96 - 24 :], plain[:, :, -1:].expand(-1, -1, 24))
    down = moved(EdgeAffine(shift=0.5), down=-1)
    assert torch.equal(down[:, 36:], plain[:, :36])
    half_turn = moved(EdgeAffine(degrees=180), turn=1)
    assert (half_turn.int() - plain.flip(1, 2).int()).abs().max() <= 1
    zoomed = moved(EdgeAffine(zoom=0.5), wide=1)
    middle = zoomed[:, :, 47:49].float().mean()
    assert abs(middle - plain[:, :, 47:49].float().mean()) < 3
    expected = v2.functional.affine(plain, 30, [0, 0], 1, [0, 0], v2.InterpolationMode.BILINEAR)
    turned = moved(EdgeAffine(degrees=30), turn=1)
    inner = (slice(None), slice(26, 46), slice(38, 58))
    assert (turned[inner].int() - expected[inner].int()).abs().max() <= 1


def test_an_elastic_warp_shifts_by_its_deviation():
    """The shifts have the given standard deviation, and are similar for neighbouring pixels."""
    torch.manual_seed(0)
    image = torch.zeros(3, 200, 200, dtype=torch.uint8)
    rows = torch.arange(200) - 99.5
    still = torch.stack(torch.meshgrid(rows, rows, indexing="ij"), -1)
    drawn = [EdgeElastic(0.02, 0.05).make_params([image])["places"] - still for _ in range(20)]
    shifts = torch.stack(drawn)
    assert abs(float(shifts.std()) - 4) < 0.5
    assert float(shifts.diff(dim=1).std()) < 1


def test_policies_do_what_their_names_say():
    plain = photograph()
    flips = views_of(find_policy("flip"), 12)
    assert {torch.equal(view, plain) for view in flips} == {True, False}
    assert all(torch.equal(view, plain) or torch.equal(view, plain.flip(2)) for view in flips)
    noise = (views_of(find_policy("noise"), 1)[0].float() - plain).flatten()
    assert abs(float(noise.mean())) < 1
    assert 20 < float(noise.std()) < 27
    assert torch.equal(find_policy("none").augment(plain, DIGEST, 1, SIZE), plain)
    tall = photograph((300, 100))
    tall[:, 150:] = 255
    crops = [find_policy("crop").augment(tall, DIGEST, view, SIZE) for view in range(1, 30)]
    assert {bool((crop == 255).all()) for crop in crops} == {True, False}


def test_vertical_flips_and_erased_rectangles():
    plain = photograph()
    turned = [plain, plain.flip(1), plain.flip(2), plain.flip(1, 2)]
    found = views_of(find_policy("flips"), 40)
    assert {place for view in found for place in range(4) if torch.equal(view, turned[place])} == {
        *range(4)
    }
    assert all(any(torch.equal(view, each) for each in turned) for view in found)
    grey, shares = torch.tensor([124, 116, 104])[:, None, None], []
    for view in views_of(find_policy("erase"), 40):
        kept = [(view == each).all(dim=0) for each in (plain, plain.flip(2))]
        same = max(kept, key=torch.sum)
        assert bool((same | (view == grey).all(dim=0)).all())
        shares.append(1 - float(same.float().mean()))
    assert 8 < sum(share == 0 for share in shares) < 32
    assert 0.01 < max(shares) < 0.34


def test_vertical_flips_and_erasing_in_a_file():
    policy = find_policy(write("- RandomVerticalFlip: {p: 1.0}\n- RandomErasing: {p: 1.0}\n"))
    for view in views_of(policy):
        lost = (view != photograph().flip(1)).any(dim=0)
        assert 0.01 < float(lost.float().mean()) < 0.34
        assert not view[:, lost].any()


PINNED = {
    "none": "b238ac99c5fe",
    "flip": "c96b0416ab28",
    "standard": "0a3094a97b29",
    "crop": "c38312f29649",
    "color": "5237541f04a4",
    "noise": "42dc9b569fe0",
    "elastic": "18391c6e2007",
    "trivial": "bd78254109ad",
    "rand": "7979573cacb9",
    "flips": "af01d44331b8",
    "erase": "5fa70fcf0eaf",
}


def test_what_decides_views_and_fingerprints_stays_as_it_was():
    """Changes would give the views of caches that exist another fingerprint, and other seeds."""
    for name in POLICIES:
        text = json.dumps(find_policy(name).as_dict(), sort_keys=True)
        assert hashlib.sha256(text.encode()).hexdigest().startswith(PINNED[name]), name


def test_a_view_has_the_input_size_of_the_base(tmp_path):
    """`crop` uses the whole image, other policies the preprocessed image."""
    file = tmp_path / "tall.png"
    Image.fromarray(data.chelsea()[:, :100]).save(file)
    content = file.read_bytes()
    transform = Transform((64, 64), (64, 64), "bilinear", (0.0,) * 3, (1.0,) * 3)
    plain = preprocess(transform, content)
    for name in CHANGING:
        policy = find_policy(name)
        whole = torch.from_numpy(np.array(Image.open(file))).movedim(-1, 0)
        expected = policy.augment(whole if policy.whole else plain, DIGEST, 3, (64, 64))
        assert torch.equal(preprocess(transform, content, policy, DIGEST, 3), expected)
    assert [find_policy(name).whole for name in CHANGING].count(True) == 1
    with pytest.raises(UsageError, match="view 1 needs an augmentation policy"):
        preprocess(transform, content, view=1)


def test_a_policy_from_a_yaml_file():
    """Nested steps, and a size that comes from the base."""
    text = """
- RandomCrop: {padding: 8, padding_mode: reflect}
- RandomApply:
    transforms:
      - GaussianBlur: {kernel_size: 5}
      - GaussianNoise: {sigma: 0.2}
    p: 0.9
- EdgeAffine: {degrees: 10}
- RandomGrayscale
"""
    policy = find_policy(write(text))
    assert policy.name == "own"
    assert all(map(torch.equal, views_of(policy), views_of(find_policy("own.yaml"))))
    assert policy.augment(photograph(), DIGEST, 1, SIZE).shape == (3, *SIZE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- RandomRotatoin: {degrees: 3}", "names 'Random.*v2; did you mean 'RandomRotation'"),
        ("- os.system: {command: ls}", "names 'os.system'; expected a class of torchvision"),
        ("- RandomRotation: {angle: 3}", "'own' cannot be made .*'angle'"),
        ("- RandomRotation: [3]", "gives RandomRotation \\[3\\]; expected its arguments by name"),
        ("- Resize: {size: 10}", "gives Resize a size; leave it out"),
        ("- RandomApply: {transforms: 3}", "holds 3, not a list of augmentation steps"),
        (
            "- Pad: {padding: 3}",
            "returned torch.uint8 \\(3, 102, 86\\), expected torch.uint8 \\(3, 96, 80",
        ),
        ("- FiveCrop", "returned tuple, expected"),
        ("- MixUp: {num_classes: 2}", "step MixUp of augmentation 'own' failed"),
        ("- RandomAffine: {degrees: .nan}", "not a list of augmentation steps \\(Out of range"),
        ("RandomRotation: {degrees: 3}", "holds {'RandomRotation': .*, not a list"),
        ("- {A: 1, B: 2}", "has the invalid step {'A': 1, 'B': 2}; expected"),
        ("- [", "is not a list of augmentation steps \\("),
        ("", "holds None, not a list"),
        ("- !!python/object/apply:os.getcwd []", "is not a list of augmentation steps"),
    ],
)
def test_a_bad_policy_is_reported_in_one_sentence(text, said):
    with pytest.raises(UsageError, match=said) as raised:
        find_policy(write(text))
    message = str(raised.value)
    assert "\n" not in message
    assert not message.endswith(".")


def test_running_out_of_memory_is_not_blamed_on_a_policy(monkeypatch):
    def short(*_):
        raise MemoryError

    policy, pixels = find_policy("flip"), torch.zeros(3, 8, 8, dtype=torch.uint8)
    for pipeline in (short, lambda *_: [short] * len(policy.steps)):
        monkeypatch.setattr("bottleneck.augment.pipelines.make_pipeline", pipeline)
        with pytest.raises(MemoryError):
            policy.augment(pixels, "0", 1, (8, 8))


def test_an_unknown_policy_is_refused():
    with pytest.raises(UnknownNameError, match="no augmentation 'standart'; .*; did you mean"):
        find_policy("standart")
    with pytest.raises(PathMissingError, match="no file 'gone.yaml'"):
        find_policy("gone.yaml")
    Path("folder.yml").mkdir()
    with pytest.raises(UsageError, match="'folder.yml' cannot be read"):
        find_policy("folder.yml")


def test_steps_that_draw_elsewhere_are_refused(monkeypatch):
    """A class whose views are not reproducible is reported when it is loaded."""

    class Unsteady(v2.Transform):
        def transform(self, inpt, _params):
            return torch.from_numpy(np.random.default_rng().permuted(inpt.numpy()))

    monkeypatch.setattr(v2, "Unsteady", Unsteady, raising=False)
    with pytest.raises(BottleneckError, match="does not give the same view each time"):
        find_policy(write("- Unsteady"))
