"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AsJson",
    "BatchSize",
    "CacheFolder",
    "Data",
    "HeadName",
    "HeadsFolder",
    "Model",
    "Seed",
    "Weights",
]

Model = Annotated[
    str,
    typer.Option("--model", help="The base; 'bottleneck models' lists them.", show_default=False),
]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        help="default, the library's name for them, a .pth state dict or .safetensors file, or "
        "random[:SEED] to try the plumbing only.",
    ),
]
Data = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Folder DATA/CLASS/IMAGE or DATA/{train,val,test}/CLASS/IMAGE, or a CSV manifest "
        "path,label[,split].",
    ),
]
CacheFolder = Annotated[Path, typer.Option("--cache", help="Folder of the feature cache.")]
HeadsFolder = Annotated[Path, typer.Option("--heads", help="Folder of the fitted heads.")]
HeadName = Annotated[
    str | None, typer.Option("--head", help="Name of the head; needed where there are several.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Images per call of the base.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of splits, folds and solvers.")]
