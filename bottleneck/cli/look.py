"""The commands that look at bases: models, layers."""

from math import prod
from typing import Annotated

import typer

from bottleneck.cli.app import app
from bottleneck.cli.options import AsJson, ImageSize, image_size_of
from bottleneck.cli.output import note, print_table
from bottleneck.errors import BottleneckError

__all__ = ["layers", "models"]

_BYTES = 2
"""Of a float16."""


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
