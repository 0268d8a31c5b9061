"""The commands beside the way from images to a head: demo, config."""

import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_doc import Doc

from bottleneck.cli.command import COMMANDS, add_command, all_values, application, config_file
from bottleneck.cli.config import read_config
from bottleneck.cli.options import AsJson, CacheFolder, HeadsFolder
from bottleneck.cli.output import note, print_json, print_table
from bottleneck.errors import UnknownNameError, did_you_mean
from bottleneck.fields import Option

if TYPE_CHECKING:
    from bottleneck.evaluate import Evaluation
    from bottleneck.heads import Head

__all__ = ["config", "demo"]


@add_command("demo", "Other")
def demo(
    data: Annotated[Path, Doc("Folder to write the demo's images to.")] = Path("data"),
    cache: CacheFolder = Path("cache"),
    heads: HeadsFolder = Path("heads"),
    picture: Annotated[Path, Doc("File to draw the confusion matrix to.")] = Path(
        "confusion_matrix.png"
    ),
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
            return application()(words, standalone_mode=False)

    stores = ("--cache", cache) if cache != Path("cache") else ()
    shelves = ("--heads", heads) if heads != Path("heads") else ()
    run("extract", "--model", model, "--data", data, *stores)
    rows = []
    for clf, drawn in (("softmax", ("--picture", picture)), ("svm", ())):
        name = f"demo-{clf}"
        fitted = run("fit-head", "--clf", clf, "--model", model, "--name", name, *stores, *shelves)
        rows.append(
            _demo_row(name, fitted, run("evaluate", "--head", name, *drawn, *stores, *shelves))
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


def _demo_row(name: str, fitted: "Head", result: "Evaluation") -> dict[str, Any]:
    low, high = result.accuracy_interval
    return {
        "head": name,
        "C": fitted.hyperparameters["C"],
        "5-fold accuracy": fitted.scores["accuracy"],
        "test images": result.images,
        "test accuracy": result.accuracy,
        "95% interval": f"{low:.3f} to {high:.3f}",
        "log loss": result.log_loss,
    }


@add_command("config", "Other")
def config(
    command: Annotated[
        str | None, Doc("Only this command's settings, such as 'fit-head'."), Option(argument=True)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the settings in force, and where each value comes from."""
    if command not in {None, *COMMANDS}:
        raise UnknownNameError(
            f"no command {command!r}{did_you_mean(str(command), COMMANDS)}; expected one of "
            f"{', '.join(COMMANDS)}"
        )
    known = read_config(config_file(), all_values())
    rows = [
        {
            "command": name,
            "key": value.key,
            "value": _shown(found.value if found else value.default),
            "from": f"[{found.table}]" if found else "default",
        }
        for name, each in COMMANDS.items()
        if command in {None, name}
        for value in each.values.values()
        for found in [known[name].get(value.name)]
    ]
    print_table(rows, as_json=as_json)


def _shown(value: Any) -> Any:
    """Return a value as JSON holds it; None for what has to be given."""
    if value is MISSING:
        return None
    return value if isinstance(value, bool | int | float | list) else value and str(value)
