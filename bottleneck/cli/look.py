"""The commands that only look: models, layers, cache ls, cache info."""

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottleneck.cli.app import app
from bottleneck.cli.options import AsJson, CacheFolder, ImageSize, image_size_of
from bottleneck.cli.output import note, print_json, print_table
from bottleneck.errors import BottleneckError

if TYPE_CHECKING:
    from bottleneck.cache import Bank

__all__ = ["cache_info", "cache_ls", "layers", "models"]

_BYTES = 2
"""Of a float16."""

cache_app = typer.Typer(no_args_is_help=True, help="Look into the feature cache.")
app.add_typer(cache_app, name="cache")


@app.command()
def layers(
    model: Annotated[str, typer.Argument(help="The base.", show_default=False)],
    image_size: ImageSize = None,
    as_json: AsJson = False,
) -> None:
    """List a base's layers with their aliases, shapes, sizes and costs.

    The sizes are floats per image, and megabytes per 1,000 images at float16. The cost is the share
    of all multiply-adds that a base cut there needs.
    """
    from bottleneck.bases import Network, find_model

    found = find_model(model)
    size = image_size_of(image_size) or found.transform.crop
    network = Network(found)
    sized = network.sized(size, needed=network.in_order(["logits"]))
    total = max(layer.multiply_adds for layer in sized.values())
    rows = [
        {
            "layer": layer.name,
            "aliases": layer.aliases,
            "shape": layer.shape,
            "floats": prod(layer.shape),
            "MB/1000": _BYTES * prod(layer.shape) / 1e3,
            "cost %": 100 * layer.multiply_adds / total,
        }
        for layer in sized.values()
    ]
    height, width = size
    print_table(
        rows,
        title=f"{model} at {height} x {width} pixels, {total / 1e9:.3f} G multiply-adds",
        as_json=as_json,
    )
    if not as_json:
        note("floats per image, megabytes per 1,000 images at float16, share of all multiply-adds")
        note(f"default layer: {found.default_layer}")


@app.command()
def models(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the bases by name.

    The top-1 accuracy on ImageNet, in percent, is what the source of the default weights publishes.
    """
    from bottleneck.bases import find_model, model_names, timm_names

    rows = []
    for name in model_names():
        try:
            found = find_model(name)
        except BottleneckError as error:
            note(f"note: {error}")
            continue
        best = next(iter(found.weights.values()), None)
        rows.append(
            {
                "model": name,
                "library": found.library,
                "parameters": found.parameters,
                "input": found.transform.crop,
                "weights": list(found.weights),
                "default layer": found.default_layer,
                "top-1": best.top1 if best else None,
            }
        )
    print_table(rows, as_json=as_json, markdown=markdown)
    if not as_json:
        note(f"and {len(timm_names())} models of timm as timm:NAME, such as timm:resnet50d")


@cache_app.command("ls")
def cache_ls(cache: CacheFolder = Path("cache"), as_json: AsJson = False) -> None:
    """List the banks."""
    from bottleneck.cache import Cache

    rows = [
        {
            "bank": bank.name,
            "model": info["model"],
            "weights": info["weights_name"],
            "input": info["transform"]["crop"],
            "pool": info["pool"],
            "dtype": info["precision"]["storage"],
            "layers": ", ".join(
                details["alias"] or layer for layer, details in info["layers"].items()
            ),
            "images": max((len(bank.known(layer)) for layer in info["layers"]), default=0),
            "parts": len(bank.parts()),
            "megabytes": round(bank.size / 1e6, 3),
        }
        for bank in Cache(cache).banks()
        for info in [bank.info]
    ]
    if not rows and not as_json:
        print(f"no banks in {cache}; 'bottleneck extract' makes them")
        return
    print_table(rows, as_json=as_json)


@cache_app.command("info")
def cache_info(
    bank: Annotated[str, typer.Argument(help="A bank's name, or how it begins: a model.")],
    cache: CacheFolder = Path("cache"),
    as_json: AsJson = False,
) -> None:
    """Show where banks came from."""
    from bottleneck.cache import Cache

    found = [{"bank": each.name, **_described(each)} for each in Cache(cache).find_banks(bank)]
    if as_json:
        print_json(found)
        return
    for info in found:
        layer_rows = info.pop("layers")
        title = info.pop("bank")
        print_table([{"key": key, "value": value} for key, value in _flat(info)], title=title)
        print_table([{"layer": layer, **details} for layer, details in layer_rows.items()])


def _described(bank: "Bank") -> dict[str, Any]:
    """Return a bank's provenance with the number of images of each layer, without the canary."""
    info = bank.info
    for layer, details in info["layers"].items():
        del details["canary"]
        details["images"] = len(bank.known(layer))
    return info


def _flat(content: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in content.items():
        if isinstance(value, dict):
            pairs.extend(_flat(value, f"{prefix}{key}."))
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs
