"""Options that several commands share."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from bottleneck.errors import UsageError
from bottleneck.files import slug

__all__ = [
    "AsJson",
    "Augment",
    "Balanced",
    "BatchSize",
    "ByAugment",
    "ByLayer",
    "ByLayers",
    "ByModel",
    "ByPool",
    "ByPools",
    "BySet",
    "ByViews",
    "CacheFolder",
    "Compress",
    "Data",
    "Device",
    "HeadName",
    "HeadsFolder",
    "ImageSize",
    "Interpolation",
    "KeepAspect",
    "Log",
    "Memory",
    "Model",
    "NearDuplicates",
    "NewHeadName",
    "Precision",
    "ReducedDecode",
    "Seed",
    "SetName",
    "Squash",
    "Standardize",
    "TrainingDevice",
    "Weights",
    "age_of",
    "batch_size_of",
    "bytes_of",
    "device_of",
    "image_size_of",
    "memory_of",
    "plain",
]


def plain(name: str | None) -> str | None:
    """Refuse a name that would lead to another folder."""
    if name is not None and (name != slug(name) or not name.strip(".") or name.startswith(".")):
        raise UsageError(
            f"{name!r} cannot be a name; expected letters, digits and the marks . _ - only, not "
            f"beginning with a dot"
        )
    return name


def image_size_of(text: str | None) -> tuple[int, int] | None:
    """Return height and width from ``150`` or ``150x200``."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and 0 < len(side) < 6 for side in sides):  # noqa: PLR2004
        raise UsageError(
            f"--image-size {text!r} cannot be; expected pixels as SIDE or HEIGHTxWIDTH, such as "
            f"150 or 150x200"
        )
    return int(sides[0]), int(sides[-1])


def batch_size_of(text: str) -> int | None:
    """Return how many images ``16`` are, and None for ``auto``."""
    if text == "auto":
        return None
    if not text.isdecimal() or not 0 < len(text) < 6 or int(text) < 1:  # noqa: PLR2004
        raise UsageError(f"--batch-size {text!r} cannot be; give auto, or 1 to 99999 images")
    return int(text)


def memory_of(text: str | None) -> int:
    """Return how many bytes ``500MB`` are; half of what is free, if it is not given."""
    from bottleneck.features import free_memory

    return free_memory() // 2 if text is None else bytes_of(text, "--memory")


def device_of(text: str) -> str:
    """Return the device that ``--device`` names, as PyTorch names it; `UsageError` for several."""
    from bottleneck.bases.precision import find_devices

    devices = find_devices(text)
    if len(devices) > 1:
        raise UsageError(f"--device {text!r} names {len(devices)} devices; give one to train on")
    return str(devices[0])


def bytes_of(text: str, option: str) -> int:
    """Return how many bytes ``500MB`` or ``20GB`` are."""
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,12})?) ?([kKMGT]?)B?", text)
    if not found:
        raise UsageError(f"{option} {text!r} is no size; expected a number with kB, MB, GB or TB")
    power: int = " kMGT".index(found[2].replace("K", "k") or " ")
    return round(float(found[1]) * 1000.0**power)


def age_of(text: str | None) -> timedelta | None:
    """Return how long ``12h`` or ``30d`` are."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,4}) ?([hdw])", text)
    if not found:
        raise UsageError(
            f"--older-than {text!r} is no age; expected a number with h, d or w, such as 30d"
        )
    return int(found[1]) * timedelta(hours=(1, 24, 24 * 7)["hdw".index(found[2])])


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
        "path,label[,split][,weight].",
    ),
]
CacheFolder = Annotated[Path, typer.Option("--cache", help="Folder of the feature cache.")]
HeadsFolder = Annotated[Path, typer.Option("--heads", help="Folder of the fitted heads.")]
SetName = Annotated[
    str | None,
    typer.Option("--set", callback=plain, help="Name of the image set; the folder's by default."),
]
NewHeadName = Annotated[
    str | None,
    typer.Option("--name", callback=plain, help="Name of the head; MODEL-LAYER-CLF by default."),
]
HeadName = Annotated[
    str | None,
    typer.Option("--head", help="Name or folder of the head; needed where there are several."),
]
BatchSize = Annotated[
    str,
    typer.Option("--batch-size", help="Images per call of the base; auto: what suits the machine."),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto (a GPU if there is one), cpu, cuda, cuda:N, or several as cuda:0,cuda:1.",
    ),
]
TrainingDevice = Annotated[
    str,
    typer.Option(
        "--device",
        help="What softmax, logreg, svm and mlp are trained on: cpu, cuda, cuda:N or auto.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="fp32 is exact; bf16 and fp16 are faster where the machine knows them; auto takes "
        "bf16 where it is native and the network stands it.",
    ),
]
KeepAspect = Annotated[
    bool,
    typer.Option(
        "--keep-aspect",
        help="Crop nothing: the base sees whole images of any proportions; needs pooled layers.",
    ),
]
ReducedDecode = Annotated[
    bool,
    typer.Option(
        "--reduced-decode",
        help="Decode large JPEGs at a half, a quarter or an eighth of their size: faster, and "
        "slightly different.",
    ),
]
Augment = Annotated[
    str | None,
    typer.Option(
        "--augment",
        help="How augmented views are made: flip, standard, crop, color, noise, elastic, trivial, "
        "or a YAML file. See 'bottleneck augment-preview'.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of splits, folds and solvers.")
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        "--image-size",
        metavar="SIDE|HEIGHTxWIDTH",
        help="Pixels that the base sees; those of the weights by default.",
    ),
]
Interpolation = Annotated[
    str | None,
    typer.Option(
        "--interpolation",
        help="nearest, bilinear, bicubic, box, hamming or lanczos; that of the weights by default.",
    ),
]
Squash = Annotated[
    bool | None,
    typer.Option(
        "--squash/--crop",
        help="Resize the whole image whatever its proportions, or keep them and crop the centre; "
        "as the weights have it by default.",
        show_default=False,
    ),
]
Compress = Annotated[
    str,
    typer.Option(
        "--compress",
        help="How new parts are compressed, without loss: none, lz4 or zstd. Smaller, and slower "
        "to read.",
    ),
]
NearDuplicates = Annotated[
    bool,
    typer.Option(
        "--near-duplicates",
        help="Also look for images that stand in two splits and look alike; reads all images.",
    ),
]
ByModel = Annotated[str | None, typer.Option("--model", help="Choose among extractions by model.")]
ByLayer = Annotated[
    str | None, typer.Option("--layer", help="Choose among extractions by layer or alias.")
]
ByPool = Annotated[
    str | None,
    typer.Option(
        "--pool",
        help="Pool stored maps and tokens: avg, max, gem, spp, or cls for class tokens; or choose "
        "among extractions by pooling.",
    ),
]
ByLayers = Annotated[
    list[str] | None,
    typer.Option(
        "--layer", help="A layer or alias; may repeat. By default all of the last extraction."
    ),
]
ByPools = Annotated[
    list[str] | None,
    typer.Option(
        "--pool",
        help="Pool stored maps and tokens: avg, max, gem, spp, cls or none; may repeat.",
    ),
]
Balanced = Annotated[
    bool, typer.Option("--balanced", help="Let each class count the same, however many images.")
]
Standardize = Annotated[
    bool,
    typer.Option(
        "--standardize/--no-standardize",
        help="Divide each feature by its deviation over the images fitted on.",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="What the features may take, such as 500MB; half of what is free by default. softmax, "
        "logreg and svm train in passes over larger ones.",
    ),
]
Log = Annotated[
    Path, typer.Option("--log", help="The experiment log that 'bottleneck sweep' fills.")
]
BySet = Annotated[str | None, typer.Option("--set", help="Choose among extractions by image set.")]
ByViews = Annotated[
    int | None,
    typer.Option(
        "--views",
        min=0,
        help="Augmented views of each training image to fit on; those of the extraction by "
        "default, and 0 for none.",
    ),
]
ByAugment = Annotated[
    str | None,
    typer.Option("--augment", help="Choose among extractions by the policy of their views."),
]
