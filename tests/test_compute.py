"""From files to activations: lanes, memory, batches of several sizes.

About 10 s in the first tier.
"""

import io
import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import nn

from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.cli.output import progress_shown
from bottleneck.errors import UsageError, is_out_of_memory
from bottleneck.extract import feature_batches, preprocess
from bottleneck.extract.lanes import Lane, find_lanes, freed_memory_kept, largest_that_pays
from bottleneck.images import decode

CPU = torch.device("cpu")
FULL, ISA = pytest.mark.ci, pytest.mark.isa


def base(model="squeezenet1_1", layers=("features.12",), **options) -> FrozenBase:
    return FrozenBase(model, layers, weights="random", **{"precision": "fp32"} | options)


def rows(extractor: FrozenBase, images: ImageSet, **options) -> dict[str, np.ndarray]:
    """Return the features of each image by its digest."""
    (layer,) = extractor.layers
    return {
        item.digest: values
        for batch in feature_batches(extractor, images.items, **options)
        for item, values in zip(batch.items, batch.features[layer], strict=True)
    }


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.ci)])
@pytest.mark.parametrize("batch_size", [1, 2, pytest.param(5, marks=ISA), "auto"])
def test_batches_come_in_order_and_their_size_changes_no_bit(photographs, precision, batch_size):
    extractor = base(precision=precision)
    order = [
        item
        for batch in feature_batches(extractor, photographs.items, batch_size=batch_size)
        for item in batch.items
    ]
    assert order == list(photographs.items)
    expected = rows(extractor, photographs, batch_size=4)
    found = rows(extractor, photographs, batch_size=batch_size)
    assert all(np.array_equal(found[digest], expected[digest]) for digest in expected)


def test_threads_of_the_process_are_as_before(photographs):
    before = torch.get_num_threads()
    batches = feature_batches(base(), photographs.items, batch_size=2)
    next(batches)
    batches.close()
    assert torch.get_num_threads() == before
    list(feature_batches(base(), photographs.items))
    assert torch.get_num_threads() == before


@ISA
@pytest.mark.parametrize("model", [pytest.param("alexnet", marks=FULL), "mobilenet_v2"])
def test_features_do_not_depend_on_how_many_images_were_left(photographs, model):
    """Not even after linear layers, whose kernels sum in another order for other batch sizes."""
    extractor = base(model, ["logits"])
    expected = rows(extractor, photographs)
    for left in (1, 2, 3, 5):
        found = rows(extractor, replace(photographs, items=photographs.items[-left:]))
        assert all(np.array_equal(found[digest], expected[digest]) for digest in found)
        assert len(found) == left


def test_a_huge_batch_is_shared_by_the_cores():
    assert find_lanes(base(), 12, 999).batch_size <= 12
    cores = len(find_lanes(base(), 100).all)
    assert find_lanes(base(), 100, 999).batch_size == -(-100 // cores)


def test_a_lane_for_each_core_that_may_be_used(monkeypatch):
    assert find_lanes(base(), 100).batch_size == 4
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert len(find_lanes(base(), 100).all) == 1
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # how joblib is told
    assert len(find_lanes(base(), 100).all) == 1
    assert find_lanes(base(), 100, 3).batch_size == 3


@pytest.mark.ci
@ISA
@pytest.mark.parametrize(
    "model",
    [
        "resnet18",
        *(pytest.param(name, marks=FULL) for name in ("vgg11", "vit_b_32", "densenet121")),
    ],
)
def test_half_precision_is_near(photographs, model):
    layer = "last_conv"
    exact = rows(base(model, [layer]), photographs)
    for precision, least in (("bf16", 0.9995), ("fp16", 0.99999)):
        near = rows(base(model, [layer], precision=precision), photographs)
        for digest, values in exact.items():
            ours, theirs = values.ravel(), near[digest].ravel()
            cosine = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
            assert least < cosine
        assert any(not np.array_equal(exact[digest], near[digest]) for digest in exact)


def test_the_largest_batch_that_pays():
    assert largest_that_pays(lambda size: min(size, 64)) == 64
    assert largest_that_pays(lambda _: 100.0) == 8
    assert largest_that_pays(float) == 1024

    def short(size: int) -> float:
        if size > 32:
            raise torch.OutOfMemoryError
        return float(size)

    assert largest_that_pays(short) == 32
    with pytest.raises(RuntimeError, match="broken"):
        largest_that_pays(lambda _: (_ for _ in ()).throw(RuntimeError("broken")))


LIMITED = """
import resource, sys, torch
from bottleneck import FrozenBase
from bottleneck.errors import MemoryShortError
from bottleneck.extract.lanes import find_lanes
base = FrozenBase("vgg11", ["features.1"], weights="random", precision="fp32")
torch.set_num_threads(1)
lane = find_lanes(base, 24).all[0]
pixels = list(torch.randint(0, 256, (24, 3, 224, 224), dtype=torch.uint8))
free = lane.compute(pixels)
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + int(sys.argv[1]) * 2**20,) * 2)
try:
    found = lane.compute(pixels)
    print(all((found[layer] == free[layer]).all() for layer in free))
except MemoryShortError as error:
    print(error)
"""


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits memory as Linux does")
@pytest.mark.parametrize(
    ("megabytes", "said"),
    [(400, "True"), pytest.param(8, "not even 4 images of 224", marks=ISA)],
)
def test_memory_that_falls_short_halves_the_batch(megabytes, said):
    """A real limit on the process: 24 images need some 310 MB for each activation."""
    command = [sys.executable, "-c", LIMITED, str(megabytes)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout.startswith(said), result.stdout + result.stderr


def _after_a_kernel_without_memory(found) -> None:
    """Compute with less memory than any kernel takes, and then with all of it."""
    torch.set_num_threads(1)
    extractor = base(layers=["features.1"])
    lane = Lane(extractor, CPU, 2)
    pixels = list(torch.randint(0, 256, (4, 3, 224, 224), dtype=torch.uint8))
    usual = resource.getrlimit(resource.RLIMIT_AS)
    tiny = torch.zeros(2, 3, 32, 32)
    resource.setrlimit(resource.RLIMIT_AS, (0, usual[1]))
    try:
        extractor(tiny)
        message = ""
    except RuntimeError as error:
        message = str(error)
    resource.setrlimit(resource.RLIMIT_AS, usual)
    (rows,) = lane.compute(pixels).values()
    found.put((message, len(rows)))


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_after_memory_has_run_out_other_batches_are_computed(processes):
    """Although oneDNN, once it has found no memory for a kernel, makes no other in that thread."""
    found = processes.SimpleQueue()
    process = processes.Process(target=_after_a_kernel_without_memory, args=(found,))
    process.start()
    process.join()
    assert process.exitcode == 0
    message, rows = found.get()
    assert is_out_of_memory(RuntimeError(message)), message
    assert rows == 4


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a memory object"), True),
        (RuntimeError("could not create a primitive descriptor for a convolution"), False),
        (RuntimeError("could not execute a primitive"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("could not create a primitive"), False),
    ],
)
def test_out_of_memory_errors_are_recognised(error, short):
    assert is_out_of_memory(error) is short


SHORT = """
import contextlib, resource, sys
from pathlib import Path
from bottleneck.cli import main
with contextlib.suppress(SystemExit):
    main(["extract", *sys.argv[1:]])
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**27,) * 2)
main(["extract", *sys.argv[1:], "--image-size", "3072"])
"""


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits memory as Linux does")
def test_memory_that_falls_short_before_the_first_batch(make_images, monkeypatch):
    """Also in the check of the image size: one sentence says that memory ran out."""
    for name in ("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT"):  # threads take memory, too
        monkeypatch.setenv(name, "1")
    make_images(cat=3, dog=3)
    options = ["--data", "data", "--model", "squeezenet1_1", "--weights", "random"]
    command = [sys.executable, "-c", SHORT, *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert "error: not enough memory (" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_error_inside_a_network_prints_no_traceback(capsys):
    """Memory may fall short there, and the batch be halved."""
    extractor = base("resnet18", ["layer1"])
    (compute,) = extractor._computes.values()
    compute.set_submodule("maxpool", nn.Flatten())
    with pytest.raises(RuntimeError, match="convolution dimensions"):
        extractor(torch.zeros(2, 3, 64, 64))
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of the GNU C library")
def test_freed_memory_is_kept_and_then_given_back():
    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            torch.ones(2**24)  # 64 MB
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    usual = faults()
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    with freed_memory_kept():
        faults()
        assert faults() < usual / 10
    held = int(Path("/proc/self/statm").read_text().split()[1])
    assert held * resource.getpagesize() < before + 2**27


@pytest.mark.parametrize(
    "model", ["mobilenet_v3_small", pytest.param("resnet18", marks=pytest.mark.ci)]
)
def test_whole_images_of_any_proportions(photographs, model):
    """Grouped by size, returned in order, and equal to images computed one by one."""
    extractor = base(model, ["penultimate"], keep_aspect=True)
    found = rows(extractor, photographs)
    assert len({extractor.transform.size_of(150, width) for width in (200, 240, 280)}) == 3
    for item in photographs.items:
        image = Image.open(item.path)
        seen = extractor.transform(image)
        assert min(seen.shape[1:]) == 224
        assert abs(seen.shape[2] / seen.shape[1] - image.width / image.height) < 0.01
        (expected,) = extractor(torch.stack([seen, seen])).values()
        assert np.array_equal(found[item.digest], expected[0].numpy())


def test_requirements_of_keep_aspect(photographs):
    with pytest.raises(UsageError, match="shape of layer 'features.12' depends on the image size"):
        base(keep_aspect=True)
    with pytest.raises(UsageError, match="be squashed and keep their proportions"):
        base(pool="avg", keep_aspect=True, squash=True)
    with pytest.raises(UsageError, match="cannot compute"):
        base("timm:vit_tiny_patch16_224", ["penultimate"], keep_aspect=True)
    extractor = base(pool="avg", keep_aspect=True)
    record = extract_features(photographs, extractor, Cache("cache"))
    assert (record.computed, record.adjustments) == (12, {"keep_aspect": True})
    assert extract_features(photographs, extractor, Cache("cache")).computed == 0


def test_reduced_decoding_is_another_fingerprint_and_nearly_the_same(tmp_path):
    photograph = Image.fromarray(data.astronaut()).resize((2048, 2048))
    photograph.save(tmp_path / "photograph.jpg", quality=95)
    images = ImageSet.from_paths([tmp_path / "photograph.jpg"])
    whole, reduced = base(), base(reduced_decode=True)
    assert whole.fingerprint("features.12.cat") != reduced.fingerprint("features.12.cat")
    assert reduced.transform.enough(2048, 2048) == (512, 512)
    assert whole.transform.enough(2048, 2048) == (2048, 2048)
    (exact,), (near,) = rows(whole, images).values(), rows(reduced, images).values()
    gap = np.abs(exact - near).max() / np.abs(exact).max()
    assert 0 < gap < 0.05


def test_reduced_decoding_changes_no_size():
    """Even if rounding of the reduced sides would give another size."""
    transform = base(keep_aspect=True, reduced_decode=True, pool="avg").transform
    for width in range(2000, 2040, 3):
        stored = io.BytesIO()
        Image.new("RGB", (width, 679)).save(stored, "JPEG")
        height, width_there = preprocess(transform, stored.getvalue()).shape[1:]
        assert (height, width_there) == transform.size_of(679, width)
        enough = transform.enough(679, width)
        assert decode(stored.getvalue(), enough=enough).shape[0] < 679


def test_progress_as_json_lines(photographs, bottleneck):
    folder = Path(photographs.items[0].path).parents[1]
    extract = ("extract", "--model", "squeezenet1_1", "--weights", "random", "--data", folder)
    result = bottleneck(*extract, "--json", "--batch-size", "4")
    record = json.loads(result.out)
    lines = [json.loads(line) for line in result.err.splitlines() if line.startswith("{")]
    assert (lines[0]["done"], lines[0]["total"], lines[0]["seconds_left"]) == (0, 12, None)
    assert lines[-1] | {"images_per_second": 0} == {
        "stage": "extract",
        "done": 12,
        "total": 12,
        "images_per_second": 0,
        "seconds_left": 0.0,
        "cached": 0,
        "bytes_written": record["bytes_written"],
    }
    assert lines[-1]["images_per_second"] > 0
    again = json.loads(bottleneck(*extract, "--json").err.splitlines()[0])
    assert (again["total"], again["cached"], again["bytes_written"]) == (0, 12, 0)
    with progress_shown(quiet=True) as report:
        report("extract", 1, 2, cached=3)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        (
            "--batch-size",
            "0",
            "--batch-size must be auto or a whole number from 1 to 99999, got '0'",
        ),
        (
            "--batch-size",
            "many",
            "--batch-size must be auto or a whole number from 1 to 99999, got 'many'",
        ),
        ("--device", "tpu", "no device 'tpu'"),
        ("--precision", "int8", "--precision must be auto, fp32, bf16 or fp16, got 'int8'"),
    ],
)
def test_invalid_options_are_refused(photographs, bottleneck, option, value, said):
    folder = Path(photographs.items[0].path).parents[1]
    extract = ("extract", "--model", "squeezenet1_1", "--weights", "random", "--data", folder)
    result = bottleneck(*extract, option, value)
    assert result.code == 2
    assert said in result.err
