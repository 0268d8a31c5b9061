"""Types of the values of settings, and how each is written."""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_doc import Doc
from pydantic import AfterValidator, BeforeValidator, Field

from bottleneck.errors import PathMissingError, UnknownNameError, UsageError, did_you_mean
from bottleneck.fields import Option
from bottleneck.files import slug
from bottleneck.sources import location

__all__ = [
    "OF_RAY",
    "SHARD_PATTERN",
    "Age",
    "Augmentation",
    "Balanced",
    "BaseName",
    "BaseNames",
    "BatchSize",
    "ByteSize",
    "Classifier",
    "Compression",
    "Count",
    "DataPath",
    "Device",
    "DeviceName",
    "Dtype",
    "Engine",
    "Folds",
    "GroupBy",
    "Interpolation",
    "MaxBytes",
    "MaxPixels",
    "MinImages",
    "MovedWeights",
    "Name",
    "Nested",
    "NewSet",
    "Normalize",
    "NotNegative",
    "Penalty",
    "Pixels",
    "PolicyName",
    "Pool",
    "Positive",
    "RayAddress",
    "Seed",
    "ShardName",
    "Share",
    "ViewCount",
    "check_augmentation",
    "check_device",
    "check_views",
]

_BASE = (
    "The base: one that 'bottleneck models' lists, or timm:NAME, hf-hub:ORG/NAME, local-dir:DIR, "
    "open_clip:NAME/TAG, hf:ORG/NAME, or the folder of a fine-tuned model"
)
BaseName = Annotated[str, Doc(f"{_BASE}.")]
BaseNames = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    Doc(f"{_BASE}; may repeat, and an image is then decoded once for all."),
]
Classifier = Literal["softmax", "logreg", "svm", "ridge", "lda", "centroid", "knn", "mlp"]
Compression = Literal["none", "lz4", "zstd"]
Dtype = Literal["float16", "float32"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
Normalize = Literal["none", "l2"]
Pool = Literal["none", "avg", "max", "gem", "spp", "cls", "cls+avg", "map"]

Count = Annotated[int, Field(ge=1)]
Folds = Annotated[int, Field(ge=2)]
Penalty = Annotated[float, Field(ge=1e-10, le=1e10)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
ViewCount = Annotated[int, Field(ge=0, le=2**16 - 1)]

_AUGMENTATIONS = (
    *("none", "flip", "standard", "crop", "color", "noise", "elastic", "trivial"),
    *("rand", "flips", "erase"),
)
OF_RAY = Option(needs=("engine=ray",))
_RAY_PATTERN = r"auto|[^\s:/]+:[0-9]{1,5}"
SHARD_PATTERN = r"([0-9]{1,9})/([0-9]{1,9})"
_LONGEST_NAME = 100
_Side = Annotated[int, Field(ge=1, le=16_384)]


def _pixels(given: Any) -> Any:
    """Parse height and width from ``150`` or ``150x200``."""
    sides = [int(side) for side in given.lower().split("x")] if isinstance(given, str) else given
    found = tuple(sides) if isinstance(sides, list | tuple) else (sides,)
    return found * 2 if len(found) == 1 else found


def _bytes(given: Any) -> Any:
    """Parse a number of bytes from ``500MB`` or ``20GB``."""
    if not isinstance(given, str):
        return given
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,12})?) ?([kKMGT]?)B?", given)
    if not found:
        raise ValueError
    return round(float(found[1]) * 1000.0 ** " KMGT".index(found[2].upper() or " "))


def _age(given: Any) -> Any:
    """Parse a duration from ``12h`` or ``30d``."""
    if not isinstance(given, str):
        return given
    found = re.fullmatch(r"([0-9]{1,4}) ?([hdw])", given)
    if not found:
        raise ValueError
    return int(found[1]) * timedelta(hours=(1, 24, 24 * 7)["hdw".index(found[2])])


def _shard(given: str) -> str:
    """Reject what is no shard."""
    found = re.fullmatch(SHARD_PATTERN, given)
    if given != "auto" and not (found and 1 <= int(found[1]) <= int(found[2])):
        raise ValueError
    return given


def _ray_address(given: str) -> str:
    """Reject what is no address of a Ray cluster, such as one of Ray's client, ray://..."""
    if not re.fullmatch(_RAY_PATTERN, given):
        raise ValueError
    return given


def check_augmentation(given: str) -> str:
    """Check the name of an augmentation; a file is read only when it is used.

    Parameters
    ----------
    given : str
        The name of a policy, or the path of a YAML file.

    Returns
    -------
    str
        The same.

    Raises
    ------
    UnknownNameError, PathMissingError
        There is no such policy or file.
    """
    if Path(given).suffix in {".yaml", ".yml"}:
        if not os.path.exists(given):  # noqa: PTH110 - the method raises for a very long name
            raise PathMissingError(
                f"no file {given!r}; name an augmentation or the path of a .yaml file"
            )
    elif given not in _AUGMENTATIONS:
        raise UnknownNameError(
            f"no augmentation {given!r}; expected one of {', '.join(_AUGMENTATIONS)}, or the path "
            f"of a .yaml file{did_you_mean(given, _AUGMENTATIONS)}"
        )
    return given


def _plain(name: str) -> str:
    """Reject a name that would lead to another folder."""
    if name != slug(name) or not name or name.startswith(".") or len(name) > _LONGEST_NAME:
        raise UsageError(
            f"{name!r} is not a valid name; expected at most {_LONGEST_NAME} letters, digits and "
            f"the characters . _ -, not beginning with a dot"
        )
    return name


def _pattern(given: str) -> str:
    """Reject a text that is no regular expression."""
    try:
        re.compile(given)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(
            f"`group_by` {given!r} is not a regular expression ({error}); give one such as "
            f"'patient[0-9]+', or '([^/]+)/[^/]+$' for the folder of each image"
        ) from None
    return given


def check_device(name: str) -> str:
    """Check the form of a device's name, without checking that the device exists.

    Parameters
    ----------
    name : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N``, or several of the last.

    Returns
    -------
    str
        The same name.

    Raises
    ------
    UsageError
        The name has another form.
    """
    if not re.fullmatch(r"auto|(cpu|cuda(:\d{1,3})?)( *, *(cpu|cuda(:\d{1,3})?))*", name.strip()):
        raise UsageError(
            f"no device {name!r}; expected auto, cpu, cuda, cuda:N, or several GPUs such as "
            f"cuda:0,cuda:1"
        )
    return name


def check_views(views: int, augment: str | None, name: str = "views") -> None:
    """Check that `views` and `augment` are given together.

    Parameters
    ----------
    views : int
        Number of views.
    augment : str or None
        The augmentation policy.
    name : str
        Name of the parameter for `views`.

    Raises
    ------
    UsageError
        One is given without the other.
    """
    augmented = augment not in {None, "none"}
    if augmented and not views:
        raise UsageError(f"`augment` {augment!r} needs `{name}` of at least 1; give `{name}=8`")
    if views and not augmented:
        raise UsageError(
            f"`{name}` is {views}, but unaugmented views would be copies of the image; give "
            f"`augment=standard`"
        )


Age = Annotated[
    timedelta,
    BeforeValidator(_age),
    Field(description="a number with h, d or w, such as 12h or 30d"),
    Option(metavar="AGE"),
]
ByteSize = Annotated[
    int,
    BeforeValidator(_bytes),
    Field(ge=0, description="a number with kB, MB, GB or TB, such as 500MB"),
    Option(metavar="SIZE"),
]
PolicyName = Annotated[str, Option(words=_AUGMENTATIONS)]
Augmentation = Annotated[PolicyName, AfterValidator(check_augmentation)]
DeviceName = Annotated[str, AfterValidator(check_device)]
Name = Annotated[str, AfterValidator(_plain)]
Pixels = Annotated[
    tuple[_Side, _Side],
    BeforeValidator(_pixels),
    Field(description="pixels as SIDE or HEIGHTxWIDTH, such as 150 or 150x200"),
    Option(metavar="PIXELS"),
]

Balanced = Annotated[bool, Doc("Weight each class the same, however many images it has.")]
BatchSize = Annotated[
    Literal["auto"] | Annotated[int, Field(ge=1, le=99_999)],
    Doc("Images per forward pass of the base; auto adapts to the machine."),
]
DataPath = Annotated[
    Path,
    AfterValidator(location),
    Doc(
        "Folder DATA/CLASS/IMAGE, DATA/{train,val,test}/CLASS/IMAGE or "
        "DATA/CLASS/{train,val,test}/IMAGE; an archive of one (.tar, .tar.gz, .zip) or shards as "
        "x-{000..099}.tar; Parquet or Arrow; a CSV table with the columns "
        "path,label[,split][,weight][,group]; or the URL of any of these, such as s3://BUCKET/DATA."
    ),
]
Device = Annotated[
    DeviceName, Doc("auto (a GPU if there is one), cpu, cuda, cuda:N, or several as cuda:0,cuda:1.")
]
Engine = Annotated[
    Literal["local", "ray"],
    Doc("Where images are computed: in this process, or by workers of a Ray cluster."),
]
GroupBy = Annotated[
    Annotated[str, AfterValidator(_pattern)] | None,
    Doc(
        "Regular expression that finds in each path the group (patient, camera, burst, document) "
        "that no split or fold may part: its first capturing group, or the whole match; or the "
        "column of a table that has it."
    ),
    Option(metavar="REGEX"),
]
MaxBytes = Annotated[
    Annotated[ByteSize, Field(ge=1)] | None,
    Doc("Size of the largest image file that is read; by default 1GB."),
    Option(metavar="SIZE"),
]
MaxPixels = Annotated[
    Count | None, Doc("Pixels of the largest image that is decoded; by default 178956970.")
]
MinImages = Annotated[
    Count,
    Doc("Leave out classes with fewer images; with fewer to train on, where splits are given."),
]
Nested = Annotated[bool, Doc("Take each folder of DATA as one class, whatever folders are in it.")]
MovedWeights = Annotated[str | None, Doc("Weights of the base, if they have moved.")]
NewSet = Annotated[
    Name | None, Doc("Name of the image set; by default the folder's."), Option("--set")
]
RayAddress = Annotated[
    str,
    AfterValidator(_ray_address),
    Field(description="HOST:PORT, such as 10.0.0.1:6379, or auto"),
    Doc(
        "The Ray cluster to work on, one of whose nodes this is; by default that of RAY_ADDRESS, "
        "else Ray is started on this computer for the time of the command."
    ),
    Option(metavar="HOST:PORT", needs=("engine=ray",)),
]
ShardName = Annotated[
    str,
    AfterValidator(_shard),
    Field(description="I/N with I from 1 to N, such as 2/4, or auto"),
    Doc(
        "Compute only the images of one of N shards, each in a process of its own; auto takes I/N "
        "from a Slurm job array, or from RANK and WORLD_SIZE."
    ),
]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), Doc("Seed of splits, folds and training.")]
