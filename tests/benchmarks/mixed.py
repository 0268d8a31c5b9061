"""Mixed precision against the bare training step: ``python tests/benchmarks/mixed.py``.

Fine-tunes all of ResNet-50 (random weights: they do not change the time) in ``bf16``, from
image files, by the command's own function; beside it, in the same run and in turn, PyTorch's bare
step on tensors that are on the device already: forward under autocast, loss, backward, AdamW. Both
keep the statistics of batch normalisation. Prints images per second, medians of all epochs but the
first of each run, and their ratio; writes ``mixed.json`` into the current folder. Meant for a GPU.
``--model``, ``--images``, ``--batch-size``, ``--epochs`` and ``--rounds`` choose others.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from finetune import fitted, photographs
from torch import nn

from bottleneck import Cache, FinetuneSettings, Head, ImageSet
from bottleneck.bases import find_devices, find_model
from bottleneck.finetune import finetune_head

BAR = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--layer", default="penultimate")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    (device, *_) = find_devices("auto")
    rates: dict[str, list[float]] = {"fine-tuning": [], "bare step": []}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        images = photographs(place / "data", given.images)
        cache = Cache(place / "cache")
        head = fitted(images, cache, given)
        for number in range(given.rounds):
            rates["fine-tuning"] += tuned(head, images, cache, place / str(number), given)
            rates["bare step"] += bare(given, device)
            print({way: [round(each, 1) for each in found] for way, found in rates.items()})
    medians = {way: round(statistics.median(found), 2) for way, found in rates.items()}
    ratio = medians["fine-tuning"] / medians["bare step"]
    print(f"{medians} on {device}: {ratio:.2f}, bar {BAR}")
    results = {**medians, "ratio": ratio, "device": str(device), "batch size": given.batch_size}
    Path("mixed.json").write_text(json.dumps(results, indent=2) + "\n")


def tuned(
    head: Head, images: ImageSet, cache: Cache, folder: Path, given: argparse.Namespace
) -> list[float]:
    """Return images per second of each epoch but the first, its validation included."""
    settings = FinetuneSettings(
        "all",
        epochs=given.epochs,
        patience=given.epochs,
        batch_size=given.batch_size,
        precision="bf16",
    )
    done = finetune_head(head, images, cache, folder, settings)
    return [done.train / epoch["seconds"] for epoch in done.head.scores["history"][1:]]


def bare(given: argparse.Namespace, device: torch.device) -> list[float]:
    """Return images per second of as many steps on tensors that are there already."""
    model = find_model(given.model)
    network = model.build(model.transform.crop).eval().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=True)
    size = (given.batch_size, 3, *model.transform.crop)
    images = torch.randn(size, device=device).contiguous(memory_format=torch.channels_last)
    codes = torch.arange(given.batch_size, device=device) % 2
    steps = -(-given.images // given.batch_size)
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
        rates.append(steps * given.batch_size / (time.monotonic() - began))
    return rates[1:]


if __name__ == "__main__":
    main()
