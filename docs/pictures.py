"""Make the pictures of the site and of the README: ``python docs/pictures.py``.

They are those of the real program, as it prints and as Chromium shows its pages.
Needs the extras ``demo``, ``serve``, ``suspects`` and ``test`` (Playwright), and Debian's Chromium.
It works on handwritten digits that scikit-learn carries, in a temporary folder or in the one that
is given, which is kept, and takes about two minutes. Look at every picture before you commit it.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from io import BytesIO, StringIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text
from sklearn.datasets import load_digits

ASSETS = Path(__file__).parent / "assets"
SHOWN = (
    "bottleneck extract --data digits --model efficientnet_lite0 --layer blocks.4 --pool avg",
    "bottleneck fit-head --clf svm --name digits",
    "bottleneck evaluate --head digits",
)
AFTER = (
    "bottleneck extract --data digits --model efficientnet_lite0 --layer blocks.2 --pool avg",
    "bottleneck fit-head --clf lda --layer blocks.2 --pool avg --name early",
    "bottleneck report --head early --map lda",
)
EDGES = """names => {
    const [first, last] = names.map(name => document.querySelector(name).getBoundingClientRect());
    return [first.top + scrollY, last.bottom + scrollY];
}"""
WIDTH = 108
"""Columns of the terminal."""
TERMINAL = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" \
xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; \
font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; \
font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""The form of Rich's pictures, without the fonts that they load from elsewhere."""


def main(*kept: str) -> None:
    """Write all pictures."""
    with tempfile.TemporaryDirectory() as folder, chdir(kept[0] if kept else folder):
        write_digits(Path("digits"), count=500)
        draw_terminal({command: typed(command) for command in SHOWN}, ASSETS / "terminal.svg")
        for command in AFTER:
            typed(command)
        with browser() as chromium:
            draw_report(chromium, Path("report.html"), ASSETS / "report.png")
            with served("early") as address:
                draw_page(chromium, address, Path("digits/3"), ASSETS / "serve.png")
    for picture in sorted(ASSETS.glob("*.*g")):
        print(f"{picture.name}: {picture.stat().st_size // 1000} kB")


def write_digits(folder: Path, *, count: int) -> None:
    """Write handwritten digits as PNG files of 64 x 64 pixels in a folder for each class."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        if number < count:
            path = folder / str(label) / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray((255 - pixels * 255 / 16).astype("uint8"))
            image.resize((64, 64), Image.Resampling.BICUBIC).save(path)


def typed(command: str) -> str:
    """Run a command as in a terminal of `WIDTH` columns and return what it prints."""
    name, *options = shlex.split(command)
    words = [sys.executable, "-m", name, *options]
    environment = os.environ | {"COLUMNS": str(WIDTH)}
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"{command}\n{ran.stderr}")
    return ran.stdout


def draw_terminal(printed: dict[str, str], file: Path) -> None:
    """Draw commands and what they printed."""
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    for command, text in printed.items():
        console.print(Text("$ ", "bold green") + Text(command, "bold"))
        console.print(Text.from_ansi(text), soft_wrap=True)
    drawn = console.export_svg(title="bottleneck", code_format=TERMINAL, theme=MONOKAI)
    file.write_text(drawn, encoding="utf-8")


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium."""
    with sync_playwright() as started:
        root = ["--no-sandbox"] * (os.geteuid() == 0)
        chromium = started.chromium.launch(executable_path=shutil.which("chromium"), args=root)
        yield chromium
        chromium.close()


@contextmanager
def served(head: str) -> Iterator[str]:
    """Serve a head, and give the address of its page."""
    words = [sys.executable, "-m", "bottleneck", "serve", head, "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield re.findall(r"http://[\d.:]+", server.stdout.readline())[0]
        finally:
            server.terminate()


def draw_report(chromium: Browser, report: Path, file: Path) -> None:
    """Draw a confusion matrix, and below it the images of one of its cells after a click."""
    page = opened(chromium, report.resolve().as_uri(), height=1000)
    page.add_style_tag(content=".scroll { max-height: none }")  # to show whole tables
    wrong = page.locator("button.cell.wrong").all()
    max(wrong, key=lambda cell: int(cell.get_attribute("data-total"))).click()
    page.wait_for_timeout(3000)  # it scrolls to the images
    shown = []
    for first, last in (("#t-matrix-0", "#t-each-0 ~ * table"), ("#images", "#gallery .card")):
        top, bottom = page.evaluate(EDGES, [first, last])
        clip = {"x": 10, "y": top - 4, "width": 1080, "height": bottom - top + 10}
        image = page.screenshot(full_page=True, clip=clip)
        shown.append(Image.open(BytesIO(image)).convert("RGB"))
    whole = Image.new("RGB", (shown[0].width, sum(each.height for each in shown)), "white")
    whole.paste(shown[0], (0, 0))
    whole.paste(shown[1], (0, shown[0].height))
    save(whole, file)


def draw_page(chromium: Browser, address: str, images: Path, file: Path) -> None:
    """Draw the server's page after an image was dropped on it."""
    page = opened(chromium, address, height=560)
    page.set_input_files("#files", [str(each) for each in sorted(images.iterdir())[:1]])
    page.wait_for_timeout(5000)
    save(Image.open(BytesIO(page.screenshot())).convert("RGB"), file)


def opened(chromium: Browser, address: str, *, height: int) -> Page:
    """Open a page in a window."""
    page = chromium.new_page(viewport={"width": 1100, "height": height})
    page.goto(address)
    page.wait_for_timeout(1000)
    return page


def save(image: Image.Image, file: Path) -> None:
    """Save a picture with at most 256 colours, which is a third as large."""
    image.quantize(256, method=Image.Quantize.MEDIANCUT).save(file, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
