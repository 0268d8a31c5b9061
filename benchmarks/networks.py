"""Which of timm's networks can be used: ``benchmarks/networks.py``.

Each is built without weights and described: its layers, with shapes and costs, and what
``penultimate`` means. Told are the shares that are traced, that run with hooks on their modules,
and that cannot be used, with the reasons. ``--part 2/8`` takes every eighth, from the second on;
``--each module`` the first of each of timm's modules. A few, whose constructors look at values,
take the memory of their weights; ``ulimit -v`` has those of billions left out. What the file of
``--json`` already has is not tried again.
"""

import argparse
import gc
import json
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import timm
import torch

from bottleneck.bases import find_model
from bottleneck.bases.network import Network
from bottleneck.errors import BottleneckError, is_out_of_memory
from common import run

FEW = ("resnet18", "vit_tiny_patch16_224", "hiera_tiny_224")
PREFIX = "timm:"


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = known(given)
    yield from found.items()
    for name in chosen(given):
        if PREFIX + name not in found:
            found[PREFIX + name] = tried(name)
            yield PREFIX + name, found[PREFIX + name]
            gc.collect()  # graphs refer to themselves
    yield from summary(found)


def known(given: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of an earlier run."""
    if not (given.json and given.json.exists()):
        return {}
    figures = json.loads(given.json.read_text())["figures"]
    return {name: each for name, each in figures.items() if name.startswith(PREFIX)}


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


def tried(name: str) -> dict[str, Any]:
    """Return how a network can be used, the reason if it is not traced, and the seconds taken."""
    started = time.perf_counter()
    try:
        network = Network(find_model(PREFIX + name))
        network.resolve("penultimate")
        way, reason = ("hooked", network.untraced) if network.untraced else ("traced", "")
    except BottleneckError as error:
        way, reason = "not used", str(error).replace(PREFIX + name, "it")
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        way, reason = "not tried", "its weights do not fit into this memory"
    return {"way": way, "reason": reason, "seconds": round(time.perf_counter() - started, 2)}


def summary(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the shares and the reasons of all networks tried."""
    ways = Counter(each["way"] for each in found.values())
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, each in found.items():
        if each["reason"]:
            reasons[f"{each['way']}: {each['reason']}"].append(name)
    seconds = [each["seconds"] for each in found.values()]
    yield "networks", len(found)
    for way in ("traced", "hooked", "not used", "not tried"):
        yield way, {"networks": ways[way], "share": ways[way] / len(found)}
    yield "mean, s", sum(seconds) / len(seconds)
    yield "slowest, s", max(seconds)
    yield "reasons", {reason: ", ".join(names) for reason, names in reasons.items()}


if __name__ == "__main__":
    run(measure, part=("1/1", "1/1"), each=("model", "model"))
