"""What several benchmarks need: photographs, a process's peak memory, the processor's name."""

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data


def write_photographs(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> None:
    """Write crops of scikit-image's photographs as JPEGs, in two folders."""
    generator = np.random.default_rng(0)
    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    for number in range(count):
        photograph = Image.fromarray(photographs[number % len(photographs)])
        width = int(generator.integers(200, photograph.width))
        height = min(photograph.height, width * 3 // 4)
        left = int(generator.integers(photograph.width - width + 1))
        top = int(generator.integers(photograph.height - height + 1))
        crop = photograph.crop((left, top, left + width, top + height)).resize(size)
        path = folder / str(number % 2) / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        crop.save(path, quality=90)


def run_process(command: Sequence[str]) -> tuple[str, int]:
    """Return what a command prints, and its peak memory in bytes."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"{' '.join(command)} failed")
        output.seek(0)
        scale = 1 if sys.platform == "darwin" else 1024
        return output.read().decode(), usage.ru_maxrss * scale


def processor() -> str:
    """Return the processor's name and how many of its cores there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    widest = "AVX-512" if any(" avx512f" in line for line in lines) else "AVX2 at most"
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor()}, {widest}"
