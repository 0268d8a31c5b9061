"""Which of timm's networks can be used: ``benchmarks/networks.py``.

Each is built without weights and described: its layers, with shapes and costs, and what
``penultimate`` means. Told are the shares that are traced, that run with hooks on their modules,
and that cannot be used, with the reasons. ``--part 2/8`` takes every eighth, from the second on;
``--each module`` the first of each of timm's modules.
"""

import argparse
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import timm
import torch

from bottleneck.bases import find_model
from bottleneck.bases.network import Network
from bottleneck.errors import BottleneckError
from common import run

FEW = ("resnet18", "vit_tiny_patch16_224", "hiera_tiny_224")


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ways: Counter[str] = Counter()
    reasons: dict[str, list[str]] = defaultdict(list)
    seconds = []
    for name in chosen(given):
        started = time.perf_counter()
        way, reason = tried(name)
        seconds.append(time.perf_counter() - started)
        ways[way] += 1
        if reason:
            reasons[f"{way}: {reason}"].append(name)
            yield f"timm:{name}", f"{way} ({reason})"
    total = sum(ways.values())
    yield "networks", total
    for way in ("traced", "hooked", "not used"):
        yield way, {"networks": ways[way], "share": ways[way] / total}
    yield "slowest, s", max(seconds)
    yield "reasons", {reason: ", ".join(names) for reason, names in reasons.items()}


def chosen(given: argparse.Namespace) -> list[str]:
    """Return the names of the networks to try."""
    if given.smoke:
        return list(FEW)
    names = timm.list_models()
    if given.each == "module":
        modules: dict[str, str] = {}
        for name in names:
            modules.setdefault(timm.model_entrypoint(name).__module__, name)
        names = list(modules.values())
    part, parts = map(int, given.part.split("/"))
    return names[part - 1 :: parts]


def tried(name: str) -> tuple[str, str]:
    """Return how a network can be used, and the reason if it is not traced."""
    try:
        network = Network(find_model(f"timm:{name}"))
        network.resolve("penultimate")
    except BottleneckError as error:
        return "not used", str(error).replace(f"timm:{name}", "it")
    return ("hooked", network.untraced) if network.untraced else ("traced", "")


if __name__ == "__main__":
    run(measure, part=("1/1", "1/1"), each=("model", "model"))
