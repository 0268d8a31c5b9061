"""The commands that look at bases: models, layers."""

from math import prod
from typing import Annotated

import typer

from bottleneck.cli.app import app
from bottleneck.cli.options import AsJson, ImageSize, image_size_of
from bottleneck.cli.output import note, print_table

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
    from bottleneck.bases import find_model
    from bottleneck.bases.network import Network

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
    from bottleneck.bases import list_models, timm_release

    found, errors = list_models()
    for error in errors:
        note(f"note: {error}")
    rows = [
        {
            "model": row.name,
            "library": row.library,
            "parameters": row.parameters,
            "input": row.image_size,
            "weights": row.weights,
            "default layer": row.default_layer,
            "top-1": row.top1,
        }
        for row in found
    ]
    print_table(rows, as_json=as_json, markdown=markdown)
    if not as_json:
        version, names = timm_release()
        note(f"and {len(names)} models of timm {version} as timm:NAME, such as timm:resnet50d")
