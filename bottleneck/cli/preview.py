"""The command that shows what an augmentation does: augment-preview."""

import io
from pathlib import Path
from typing import Annotated

import typer

from bottleneck.cli.app import app
from bottleneck.cli.options import AsJson, Data, Seed
from bottleneck.cli.output import print_json
from bottleneck.errors import UsageError

__all__ = ["augment_preview"]


@app.command("augment-preview")
def augment_preview(
    augment: Annotated[
        str,
        typer.Option(
            "--augment",
            help="flip, standard, crop, color, noise, elastic, trivial, or a YAML file.",
            show_default=False,
        ),
    ],
    data: Data = Path("data"),
    views: Annotated[int, typer.Option("--views", min=1, help="Views of each image.")] = 8,
    images: Annotated[int, typer.Option("--images", min=1, help="How many images.")] = 6,
    output: Annotated[
        Path, typer.Option("--output", help="The picture; its ending is .png.")
    ] = Path("augment-preview.png"),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Draw augmented views of a few training images, beside the plain ones."""
    from bottleneck.augment import find_policy
    from bottleneck.extract import draw_views
    from bottleneck.files import atomic_write
    from bottleneck.images import ImageSet

    if output.suffix.lower() != ".png":
        raise UsageError(f"--output {str(output)!r} has another ending than .png; give that one")
    policy = find_policy(augment)
    sheet = draw_views(ImageSet.open(data, seed=seed), augment, views=views, count=images)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    atomic_write(output, content.getvalue())
    if as_json:
        print_json(
            {"picture": str(output), "policy": policy.name, "views": views, **policy.as_dict()}
        )
        return
    print(f"{views} views by {policy.name!r} drawn to {output}")
