"""Mixed precision against the bare training step: ``benchmarks/mixed.py``.

Fine-tunes all of ResNet-50 (random weights: they do not change the time) in ``bf16``, from
image files, by the command's own function; beside it, in the same run and in turn, PyTorch's bare
step on tensors that are on the device already: forward under autocast, loss, backward, AdamW. Both
keep the statistics of batch normalisation. Figures are images per second, medians of all epochs but
the first of each run, and their ratio, with a bar of 0.9. Meant for a GPU.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bottleneck import Cache, FinetuneSettings, Head, ImageSet
from bottleneck.bases import find_devices, find_model
from bottleneck.finetune import finetune_head
from common import NO_BF16, computes_bf16, run
from finetune import fitted, photographs


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    (device, *_) = find_devices(given.device)
    if device.type == "cpu" and not computes_bf16():
        yield given.model, NO_BF16
        return
    rates: dict[str, list[float]] = {"fine-tuning": [], "bare step": []}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        images = photographs(place / "data", given.images)
        cache = Cache(place / "cache")
        head = fitted(images, cache, given)
        for number in range(given.rounds):
            rates["fine-tuning"] += tuned(head, images, cache, place / str(number), given)
            rates["bare step"] += bare(given, device)
    found = {way: statistics.median(each) for way, each in rates.items()}
    ratio = found["fine-tuning"] / found["bare step"]
    yield given.model, {**found, "ratio": ratio, "device": str(device), "batch size": given.batch}


def tuned(
    head: Head, images: ImageSet, cache: Cache, folder: Path, given: argparse.Namespace
) -> list[float]:
    """Return images per second of each epoch but the first, its validation included."""
    settings = FinetuneSettings(
        "all",
        epochs=given.epochs,
        patience=given.epochs,
        batch_size=given.batch,
        precision="bf16",
    )
    done = finetune_head(head, images, cache, folder, settings, device=given.device)
    return [done.train / epoch["seconds"] for epoch in done.head.scores["history"][1:]]


def bare(given: argparse.Namespace, device: torch.device) -> list[float]:
    """Return images per second of as many steps on tensors that are there already."""
    model = find_model(given.model)
    network = model.build(model.transform.crop).eval().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=True)
    size = (given.batch, 3, *model.transform.crop)
    images = torch.randn(size, device=device).contiguous(memory_format=torch.channels_last)
    codes = torch.arange(given.batch, device=device) % 2
    steps = -(-given.images // given.batch)
    rates = []
    for _ in range(given.epochs):
        began = time.monotonic()
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16):
                loss = nn.functional.cross_entropy(network(images), codes)
            loss.backward()
            optimizer.step()
        loss.item()  # waits for the device
        rates.append(steps * given.batch / (time.monotonic() - began))
    return rates[1:]


if __name__ == "__main__":
    run(
        measure,
        model=("resnet50", "resnet18"),
        layer=("penultimate", "penultimate"),
        images=(4096, 4),
        batch=(64, 2),
        epochs=(3, 2),
        rounds=(2, 1),
        device=("auto", "cpu"),
    )
