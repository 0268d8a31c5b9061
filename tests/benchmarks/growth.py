"""Cost per image as the images grow: ``python tests/benchmarks/growth.py [IMAGES...]``.

Extracts EfficientNet-Lite0's pooled features of 500 and of 20,000 small photographs, each in a
process of its own, in turn and three times over. Prints milliseconds per image and peak memory,
and writes ``growth.json`` into the current folder. Then the price of extracting again:
VGG16's `block5_pool` of 1,000 photographs, the second run against the first.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import run_process, write_photographs

ROUNDS = 3
CODE = """
import sys, time
from bottleneck import Cache, FrozenBase, ImageSet, extract_features
model, layer, data, cache = sys.argv[1:]
base = FrozenBase(model, [layer], weights="random")
started = time.monotonic()
extraction = extract_features(ImageSet.open(data), base, Cache(cache))
print(time.monotonic() - started, extraction.images)
"""


def main() -> None:
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        counts = [int(count) for count in sys.argv[1:]] or [500, 20_000]
        found: dict[int, list] = {count: [] for count in counts}
        for count in counts:
            write_photographs(place / str(count), count, size=(240, 180))
        for round_number in range(ROUNDS):
            for count in counts:
                cache = place / f"cache-{count}-{round_number}"
                seconds, images, memory = run(
                    "efficientnet_lite0", "penultimate", place / str(count), cache
                )
                found[count].append((seconds / images, memory))
        for count, measured in found.items():
            costs, memories = zip(*measured, strict=True)
            results[str(count)] = {
                "milliseconds per image": 1e3 * statistics.median(costs),
                "megabytes of memory": statistics.median(memories) / 1e6,
            }
            print(count, results[str(count)], flush=True)
        write_photographs(place / "photographs", 1000)
        arguments = ("vgg16", "block5_pool", place / "photographs", place / "again")
        first = run(*arguments)[0]
        again = statistics.median(run(*arguments)[0] for _ in range(ROUNDS))
        command = [sys.executable, "-m", "bottleneck", "extract", "--model", "vgg16"]
        command += ["--weights", "random", "--data", str(arguments[2])]
        command += ["--cache", str(arguments[3])]
        whole = []
        for _ in range(ROUNDS):
            started = time.monotonic()
            subprocess.run(command, check=True, capture_output=True)
            whole.append(time.monotonic() - started)
        results["again"] = {
            "seconds at first": first,
            "seconds again": again,
            "seconds of the whole command": statistics.median(whole),
        }
        print(f"again: {first / again:.0f} times faster, {results['again']}")
    Path("growth.json").write_text(json.dumps(results, indent=2) + "\n")


def run(model: str, layer: str, images: Path, cache: Path) -> tuple[float, int, int]:
    """Return seconds, images and peak memory of an extraction, start-up excluded."""
    printed, memory = run_process(
        [sys.executable, "-c", CODE, model, layer, str(images), str(cache)]
    )
    seconds, images_done = printed.split()
    return float(seconds), int(images_done), memory


if __name__ == "__main__":
    main()
