"""The other commands: demo, config."""

import json
from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_doc import Doc

from bottleneck.cli import options
from bottleneck.cli.chain import Chain
from bottleneck.cli.command import COMMANDS, Config, add_command, in_order
from bottleneck.cli.output import print_table, show
from bottleneck.cli.streams import note
from bottleneck.errors import UnknownNameError, did_you_mean
from bottleneck.fields import ARGUMENT, Declared, Option

if TYPE_CHECKING:
    from bottleneck.evaluate import Evaluation
    from bottleneck.heads import Head

__all__ = ["config", "demo"]

_MODEL = "efficientnet_lite0"
_FOLDER = Path("demo")
_PICTURE = _FOLDER / "confusion_matrix.png"
_OWN = Option(own=True)
"""The folders of [default] in a file of settings are the user's."""


@add_command("demo", "Other", "as_json", "wide")
def demo(
    file: Config,
    data: Annotated[Path, Doc("Folder to write the demo's images to."), _OWN] = _FOLDER / "data",
    cache: Annotated[options.CacheFolder, _OWN] = _FOLDER / "cache",
    heads: Annotated[options.HeadsFolder, _OWN] = _FOLDER / "heads",
    picture: Annotated[options.OutputFile, Doc("File for the confusion matrix."), _OWN] = _PICTURE,
) -> None:
    """Run all steps on 200 photographs: extract, fit two heads, evaluate them.

    Everything is written to the folder demo, so that your own data, cache and heads stay apart.
    """
    from bottleneck.demo import write_demo_images

    written = write_demo_images(data)
    note(f"demo images: {written} written to {data}" if written else f"demo images are in {data}")
    chain = Chain(file)
    chain.run("extract", {"models": (_MODEL,), "data": data, "cache": cache})
    rows = []
    places = {"cache": cache, "heads": heads}
    for clf, drawn in (("softmax", {"picture": picture}), ("svm", {})):
        own = {"clf": clf, "models": (_MODEL,), "name": f"demo-{clf}"}
        fitted = chain.run("fit-head", own | places)
        result = chain.run("evaluate", {"head": f"demo-{clf}", **drawn, **places})
        rows.append(_demo_row(f"demo-{clf}", fitted, result))
    next_one = {"head": "demo-svm", "heads": heads, "cache": cache, "images": data / "face"}

    def text() -> None:
        print()
        print_table(rows, f"Heads on the features of {_MODEL}, {data}")
        print("\nThe commands were:", *chain.commands, sep="\n  ")
        print("Continue with your own images in data/CLASS/IMAGE, as the README shows, or with")
        print(f"  {chain.line('predict', next_one)}")

    show({"heads": rows, "commands": chain.commands}, text)


def _demo_row(name: str, fitted: "Head", result: "Evaluation") -> dict[str, Any]:
    low, high = result.accuracy_interval
    return {
        "head": name,
        "C": fitted.hyperparameters["C"],
        "cv_accuracy": fitted.scores["accuracy"],
        "test_images": result.images,
        "test_accuracy": result.accuracy,
        "interval": f"{low:.3f} to {high:.3f}",
        "log_loss": result.log_loss,
    }


@add_command("config", "Other")
def config(
    file: Config,
    command: Annotated[
        tuple[str, ...],
        Doc("Show only the settings of this command, such as fit-head or cache ls."),
        ARGUMENT,
    ] = (),
) -> None:
    """Print the current settings as TOML, and the origin of each value."""
    wanted = " ".join(command).replace(".", " ")
    chosen = [each for each in in_order() if f"{each.name} ".startswith(f"{wanted} ".lstrip())]
    if not chosen:
        raise UnknownNameError(
            f"no command {wanted!r}; expected one of {', '.join(COMMANDS)}"
            f"{did_you_mean(wanted, COMMANDS)}"
        )
    no_file = "no bottleneck.toml: all settings have their defaults"
    note(f"settings from {file.file}" if file.file else no_file)
    rows = [_setting(each.name, value, file) for each in chosen for value in each.values.values()]

    def text() -> None:
        for name in dict.fromkeys(row["command"] for row in rows):
            print(f"\n[{name.replace(' ', '.')}]")
            for row in (row for row in rows if row["command"] == name):
                print(f"{_toml(row['key'], row['value']):<40}  # {row['from']}")

    show(rows, text)


def _setting(command: str, value: Declared, file: Config) -> dict[str, Any]:
    """Return the current setting of a value, in JSON types."""
    found = file.values[command].get(value.name)
    default = None if value.default is MISSING else value.default
    return {
        "command": command,
        "key": value.key,
        "value": found.value if found else str(default) if isinstance(default, Path) else default,
        "from": found.table if found else "required" if value.default is MISSING else "default",
    }


def _toml(key: str, value: Any) -> str:
    """Return a line of TOML, commented out if there is no value."""
    text = str(value) if isinstance(value, float) else json.dumps(value, default=str)
    return f"# {key} =" if value is None else f"{key} = {text}"
