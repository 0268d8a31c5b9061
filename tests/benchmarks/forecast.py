"""How near a forecast comes: ``python tests/benchmarks/forecast.py [IMAGES]``.

For three bases, `bottleneck extract --dry-run` and then `bottleneck extract`, each a process of its
own, on crops of scikit-image's photographs (500 x 375 pixels, JPEG). Prints what was forecast, what
happened and the ratio, and writes it to ``forecast.json`` in the current folder. The bar is a ratio
between 0.75 and 1.25 for seconds, bytes on disk and peak memory. Weights are random: they do not
change the time.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import run_process, write_photographs

ROUNDS = 3
BASES = {
    "vgg16": ("block5_pool", 1),
    "resnet50": ("last_conv", 2),
    "efficientnet_lite0": ("penultimate", 4),
}
"""Model to its layer, and how many times the number of images it gets."""


def run(*arguments: str) -> tuple[dict, int]:
    """Return what a command prints as JSON, and its peak memory in bytes."""
    printed, memory = run_process([sys.executable, "-m", "bottleneck", *arguments, "--json"])
    return json.loads(printed), memory


def measure(model: str, layer: str, images: int) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        photographs, cache = Path(folder) / "photographs", Path(folder) / "cache"
        write_photographs(photographs, images)
        arguments = ["extract", "--model", model, "--layer", layer, "--weights", "random"]
        arguments += ["--data", str(photographs), "--cache", str(cache)]
        forecast, _ = run(*arguments, "--dry-run")
        done, memory = run(*arguments)
        written = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    return {
        "seconds": {"forecast": forecast["seconds"], "actual": done["seconds"]},
        "megabytes on disk": {
            "forecast": forecast["bytes_on_disk"] / 1e6,
            "actual": written / 1e6,
        },
        "megabytes of memory": {
            "forecast": forecast["peak_memory"] / 1e6,
            "actual": memory / 1e6,
        },
    }


def main() -> None:
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    figures = {}
    for model, (layer, times) in BASES.items():
        rounds = [measure(model, layer, images * times) for _ in range(ROUNDS)]
        figures[model] = {"layer": layer, "images": images * times, "rounds": rounds}
        for name in rounds[0]:
            ratios = [found[name]["actual"] / found[name]["forecast"] for found in rounds]
            middle = sorted(rounds, key=lambda found: found[name]["actual"])[ROUNDS // 2][name]
            print(
                f"{model:20} {name:20} forecast {middle['forecast']:8.1f}  actual "
                f"{middle['actual']:8.1f}  actual/forecast median {statistics.median(ratios):.2f} "
                f"(from {min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )
    Path("forecast.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
