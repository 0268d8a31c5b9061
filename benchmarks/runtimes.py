"""Our forward pass beside those of other runtimes: ``benchmarks/runtimes.py``.

Images per second of the frozen base alone, with random weights, on images that are in memory:
torchvision's or timm's model as it is (channels-last, if that is faster), ours in float32 and in
the precision that ``auto`` chooses, ONNX Runtime, and OpenVINO where it is installed. They run in
turn, each in a process of its own, as their threads get in each other's way, and in float32 unless
told otherwise. Each runtime has the fastest of its ways: all cores in one batch of 16, or a session
for each core with batches of 4 or of 1. Bar: ours in float32 is not slower than the best of the
others.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from functools import lru_cache, partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm
import torch
import torchvision
from torch import nn

from bottleneck import FrozenBase
from bottleneck.extract.lanes import find_lanes, freed_memory_kept
from common import Tables, medians, rate, run
from extraction import on_all_cores

BASES: dict[str, tuple[str, int, Callable[[], nn.Module]]] = {
    "vgg16": ("block5_pool", 1, lambda: torchvision.models.vgg16().features),
    "resnet50": (
        "layer4",
        3,
        lambda: nn.Sequential(*[*torchvision.models.resnet50().children()][:-2]),
    ),
    "mobilenet_v2": ("last_conv", 16, lambda: torchvision.models.mobilenet_v2().features),
    "efficientnet_lite0": (
        "last_conv",
        16,
        lambda: timm.create_model("tf_efficientnet_lite0", num_classes=0, global_pool=""),
    ),
    "timm:vit_small_patch16_224": (
        "penultimate",
        3,
        lambda: timm.create_model("vit_small_patch16_224", num_classes=0),
    ),
}
"""Model to our layer, the share of forward passes that it gets, and what builds it bare."""
NAMES = {
    "vgg16": "VGG16",
    "resnet50": "ResNet-50",
    "mobilenet_v2": "MobileNetV2",
    "efficientnet_lite0": "EfficientNet-Lite0",
    "timm:vit_small_patch16_224": "ViT-S/16",
}
BATCH = 16
WAYS = {"batch 16": (False, 16), "a session a core, 4": (True, 4), "a session a core, 1": (True, 1)}
"""Name to whether each core has a session of its own, and the images in a batch."""
OURS = ("fp32", "auto")

Session = Callable[[], object]
"""Computes one batch."""


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    for model in given.base:
        yield NAMES[model], figures(model, given)


def figures(model: str, given: argparse.Namespace) -> dict[str, Any]:
    images, runtimes = BATCH * given.batches * BASES[model][1], dict(RUNTIMES)
    if not find_spec("openvino"):
        del runtimes["OpenVINO"]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder, "model.onnx")
        write_onnx(model, file)
        kept: dict[str, Callable[[], float]] = {}
        ways: dict[str, str] = {}
        for runtime, (_, names) in runtimes.items():
            pool = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
            runs = {way: partial(ask, pool, runtime, model, file, way, images) for way in names}
            ways[runtime] = max(runs, key=lambda way: runs[way]())
            kept[runtime] = runs[ways[runtime]]
            kept[runtime]()  # once before it counts
        found: dict[str, Any] = dict(medians(given.rounds, kept))
    best = max(found.keys() - OURS, key=lambda runtime: found[runtime])
    told = {f"way of {runtime}": way for runtime, way in ways.items() if runtime not in OURS}
    return found | {"best of the others": best, "ratio": found["fp32"] / found[best]} | told


def bare(model: str) -> nn.Module:
    torch.manual_seed(0)
    return BASES[model][2]().eval()


def write_onnx(model: str, file: Path) -> None:
    sample, shapes = torch.rand(2, 3, 224, 224), ({0: "batch"},)
    module = bare(model)
    torch.onnx.export(module, (sample,), file, dynamo=True, dynamic_shapes=shapes, verbose=False)


def ask(pool: Executor, *question: Any) -> float:
    """Return the images per second that the process of a runtime measures."""
    return pool.submit(answer, *question).result()


def answer(runtime: str, model: str, file: Path, way: str, images: int) -> float:
    sessions, size = loaded(runtime, model, file, way)
    times = max(1, images // (size * len(sessions)))

    def repeat(session: Session) -> None:
        with torch.inference_mode():
            for _ in range(times):
                session()

    apart = on_all_cores(repeat, sessions, kept=False)
    work = apart if len(sessions) > 1 else partial(repeat, sessions[0])
    with freed_memory_kept():
        return rate(work, times * size * len(sessions))


@lru_cache(maxsize=1)
def loaded(runtime: str, model: str, file: Path, way: str) -> tuple[list[Session], int]:
    """Return a runtime's sessions, one of all cores or one for each, and their batch size."""
    return RUNTIMES[runtime][0](model, file, way)


def bare_torch(model: str, _: Path, way: str) -> tuple[list[Session], int]:
    layout = torch.channels_last if way == "channels-last" else torch.contiguous_format
    batch = torch.rand(BATCH, 3, 224, 224).to(memory_format=layout)
    return [partial(bare(model).to(memory_format=layout), batch)], BATCH


def onnx_runtime(_: str, file: Path, way: str) -> tuple[list[Session], int]:
    apart, size = WAYS[way]
    settings, cores = onnxruntime.SessionOptions(), torch.get_num_threads()
    settings.intra_op_num_threads = 1 if apart else cores
    sessions: list[Session] = []
    for _each in range(cores if apart else 1):
        session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
        images = {session.get_inputs()[0].name: pixels(size)}
        sessions.append(partial(session.run, None, images))
    return sessions, size


def openvino(_: str, file: Path, way: str) -> tuple[list[Session], int]:
    from openvino import Core  # noqa: PLC0415 - only where it is installed

    apart, size = WAYS[way]
    count = torch.get_num_threads() if apart else 1
    model = Core().read_model(str(file))
    model.reshape([size, 3, 224, 224])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": count}
    compiled = Core().compile_model(model, "CPU", settings)
    requests = [compiled.create_infer_request() for _each in range(count)]
    return [partial(each.infer, [pixels(size)], share_inputs=True) for each in requests], size


def ours(model: str, _: Path, precision: str) -> tuple[list[Session], int]:
    base = FrozenBase(model, [BASES[model][0]], weights="random", precision=precision)
    lanes = find_lanes(base, BATCH * torch.get_num_threads())
    batch = torch.from_numpy(pixels(lanes.batch_size))
    return [partial(base, batch)] * len(lanes.all), lanes.batch_size


def pixels(size: int) -> np.ndarray:
    return np.random.default_rng(0).random((size, 3, 224, 224), dtype=np.float32)


RUNTIMES: dict[str, tuple[Callable[[str, Path, str], tuple[list[Session], int]], Iterable[str]]] = {
    "torch": (bare_torch, ("as it is", "channels-last")),
    "ONNX Runtime": (onnx_runtime, WAYS),
    "OpenVINO": (openvino, WAYS),
    "fp32": (ours, ("fp32",)),
    "auto": (ours, ("auto",)),
}
"""Name to what loads it, and its ways."""


def tables(found: dict[str, Any]) -> Tables:
    rows: list = [
        (
            "",
            "torch",
            "ONNX Runtime",
            "OpenVINO",
            "ours, `fp32`",
            "by the best other",
            "ours, `auto`",
        )
    ]
    for name, own in found.items():
        rates = [own.get(runtime, float("nan")) for runtime in RUNTIMES]
        rows.append((name, *rates[:4], own["ratio"], rates[4]))
    return {"runtimes": rows}


if __name__ == "__main__":
    run(measure, tables, batches=(4, 1), rounds=(5, 1), base=(tuple(BASES), ("mobilenet_v2",)))
