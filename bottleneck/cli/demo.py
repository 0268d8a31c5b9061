"""The demo: real commands on real photographs."""

import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from bottleneck.cli.app import app
from bottleneck.cli.options import AsJson, CacheFolder, HeadsFolder
from bottleneck.cli.output import note, print_json, print_table

__all__ = ["demo"]


@app.command()
def demo(
    data: Annotated[
        Path, typer.Option("--data", help="Folder to write the demo's images to.")
    ] = Path("data"),
    cache: CacheFolder = Path("cache"),
    heads: HeadsFolder = Path("heads"),
    picture: Annotated[
        Path, typer.Option("--picture", help="File to draw the confusion matrix to.")
    ] = Path("confusion_matrix.png"),
    as_json: AsJson = False,
) -> None:
    """Show the whole way on 200 photographs: extract, fit two heads, evaluate them."""
    from bottleneck.demo import write_demo_images

    written = write_demo_images(data)
    note(f"demo images: {written} written to {data}" if written else f"demo images are in {data}")
    model = "efficientnet_lite0"
    commands = []

    def run(*arguments: object) -> Any:
        words = [str(argument) for argument in arguments]
        commands.append(shlex.join(["bottleneck", *words]))
        with redirect_stdout(sys.stderr if as_json else sys.stdout):
            print(f"\n$ {commands[-1]}", flush=True)
            return app(words, standalone_mode=False)

    stores = ("--cache", cache) if cache != Path("cache") else ()
    shelves = ("--heads", heads) if heads != Path("heads") else ()
    run("extract", "--model", model, "--data", data, *stores)
    rows = []
    for clf in ("softmax", "svm"):
        name = f"demo-{clf}"
        fitted = run("fit-head", "--clf", clf, "--model", model, "--name", name, *stores, *shelves)
        drawn = ("--picture", picture) if clf == "softmax" else ()
        result = run("evaluate", "--head", name, *drawn, *stores, *shelves)
        low, high = result.accuracy_interval
        rows.append(
            {
                "head": name,
                "C": fitted.hyperparameters["C"],
                "5-fold accuracy": fitted.scores["accuracy"],
                "test images": result.images,
                "test accuracy": result.accuracy,
                "95% interval": f"{low:.3f} to {high:.3f}",
                "log loss": result.log_loss,
            }
        )
    if as_json:
        print_json({"heads": rows, "commands": commands})
        return
    print()
    print_table(rows, title=f"Heads on the features of {model}, {data}")
    print("\nThe commands were:")
    for command in commands:
        print(f"  {command}")
    example = shlex.join(
        ["bottleneck", "predict", "--head", "demo-svm", *map(str, shelves), str(data / "face")]
    )
    print(f"Go on with your own images (--data FOLDER), or with\n  {example}")
