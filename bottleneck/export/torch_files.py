"""``.pt2`` files: base and head as one program of `torch.export`."""

import io

import torch
from torch import nn

from bottleneck.errors import reworded
from bottleneck.export.networks import Parts, failure, quiet, traced
from bottleneck.records import SHIPPED, ShippedRecord

__all__ = ["made_torch"]


def made_torch(parts: Parts, record: ShippedRecord) -> bytes:
    """Return the bytes of a ``.pt2`` file, which `torch.export.load` reads without this package.

    Parameters
    ----------
    parts : Parts
        The head and its base.
    record : ShippedRecord
        What the file says of itself; in the file as ``bottleneck.json``.

    Returns
    -------
    bytes

    Raises
    ------
    ExportError
        The network cannot be traced, or its program cannot be written.
    """
    whole = nn.Sequential(parts.features, parts.probabilities)
    any_size = parts.base.transform.keep_aspect
    program = traced(whole, parts.pixels, parts.source.model, any_size=any_size)
    stream = io.BytesIO()

    failed = failure(
        f"PyTorch {torch.__version__} cannot write the program of {parts.source.model}",
        "export an .onnx or a .zip",
    )

    with reworded(failed), quiet():
        torch.export.save(program, stream, extra_files={f"{SHIPPED}.json": record.as_json()})
    return stream.getvalue()
