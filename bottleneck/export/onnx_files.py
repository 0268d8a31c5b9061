"""``.onnx`` files: preprocessing, base and head as three graphs that are joined to one."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram, default_decompositions

from bottleneck.errors import ExportError, UsageError, reworded
from bottleneck.export.networks import Parts, failure, quiet, traced
from bottleneck.export.preprocessing import preprocessing_graph
from bottleneck.export.samples import Sample
from bottleneck.records import SHIPPED, ShippedRecord
from bottleneck.sessions import import_runtime
from bottleneck.settings import ExportSettings

__all__ = ["joined", "made_onnx", "merged", "quantised"]

_LARGEST = 2**31 - 2**20
"""Bytes of one file, which Protocol Buffers limit; the rest is for what is not weights."""
_KNOWN = 4
"""Dimensions of attention that PyTorch's exporter can write."""
_GRAPHS = {"images": "pixels", "pixels": "features", "features": "probabilities"}
"""What each graph takes, and what it gives."""


def made_onnx(parts: Parts, settings: ExportSettings) -> tuple[Any, Any]:
    """Return the base and the head as graphs.

    Parameters
    ----------
    parts : Parts
        The head and its base.
    settings : ExportSettings
        The version of ONNX's operators, and the precision of the base: ``fp16`` converts it here,
        ``int8`` is for `quantised`.

    Returns
    -------
    (onnx.ModelProto, onnx.ModelProto)
        The base from ``pixels`` to ``features``, the head from there to ``probabilities``.

    Raises
    ------
    ExportError
        A part cannot be exported, or is too large for one file.
    """
    size = sum(each.numel() * each.element_size() for each in _tensors(parts))
    if size > _LARGEST:
        raise ExportError(
            f"the weights of {parts.source.model} and the head take {size / 1e9:.1f} GB, but an "
            f".onnx file holds at most 2 GB; export a .pt2 or a .zip"
        )
    opset, any_size = settings.opset, parts.base.transform.keep_aspect
    pixels = parts.pixels
    features = torch.zeros(len(pixels), parts.head.model.n_features)
    # First what is soon written, or refused with another opset.
    head = _graph(parts.probabilities, features, "features", "the head", opset)
    model = _graph(parts.features, pixels, "pixels", parts.source.model, opset, any_size=any_size)
    return (_halved(model) if settings.precision == "fp16" else model), head


def _halved(model: Any) -> Any:
    """Return a base in half precision."""
    import_runtime()

    failed = failure(
        "ONNX Runtime cannot convert this base to half precision", "export it with `precision=fp32`"
    )

    with reworded(failed), quiet():
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel

        half = convert_float_to_float16(model, keep_io_types=True)
        OnnxModel.graph_topological_sort(half.graph)  # it adds conversions at the end
        return half


def _tensors(parts: Parts) -> Iterator[torch.Tensor]:
    for module in (parts.features, parts.probabilities):
        yield from module.parameters()
        yield from module.buffers()


def _graph(
    module: nn.Module,
    sample: torch.Tensor,
    takes: str,
    what: str,
    opset: int,
    *,
    any_size: bool = False,
) -> Any:
    """Return a module as an ONNX graph."""
    program = _with_known_attention(traced(module, sample, what, any_size=any_size))

    failed = failure(
        f"{what} cannot be written with ONNX's operators of opset {opset}",
        "export a .pt2 or a .zip",
    )

    names: Any = {"input_names": [takes], "output_names": [_GRAPHS[takes]]}
    with reworded(failed), quiet():
        made = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False, **names)
        model = made.model_proto  # type: ignore[union-attr]
    written = next(each.version for each in model.opset_import if not each.domain)
    if written != opset:
        raise UsageError(
            f"PyTorch cannot write {what} with `opset` {opset}, but with {written}; give "
            f"`opset={written}`, or leave `opset` out"
        )
    return model


def _with_known_attention(program: ExportedProgram) -> ExportedProgram:
    """Return a program whose attention has four dimensions, or is divided into its operations.

    PyTorch's exporter knows no other, such as that of Hiera within windows.
    """
    attention = torch.ops.aten.scaled_dot_product_attention.default
    found = [node for node in program.graph.nodes if node.target is attention]
    if all(node.args[0].meta["val"].dim() == _KNOWN for node in found):
        return program
    divided: ExportedProgram = program.run_decompositions(
        {attention: default_decompositions()[attention]}
    )
    return divided


def quantised(model: Any, samples: Iterable[Sample]) -> Any:
    """Return a base whose weights and activations are 8-bit integers where that pays.

    Parameters
    ----------
    model : onnx.ModelProto
        The base in float32.
    samples : iterable of Sample
        Training images, whose range of activations is that of the file.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    ExportError
        ONNX Runtime cannot quantise it.
    """
    import onnx

    import_runtime()
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._samples = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            """Return the pixels of the next image, or None after the last."""
            sample = next(self._samples, None)
            return {"pixels": sample.pixels[None].numpy()} if sample else None

    failed = failure(
        "ONNX Runtime cannot quantise this base",
        "export it with `precision=fp16` or `precision=fp32`",
    )

    with reworded(failed), quiet(), TemporaryDirectory() as folder:
        whole, ready, small = (str(Path(folder, f"{name}.onnx")) for name in ("a", "b", "c"))
        onnx.save(model, whole)
        quantization.quant_pre_process(whole, ready, skip_symbolic_shape=True)
        quantization.quantize_static(
            ready,
            small,
            Reader(),
            per_channel=True,
            # Processors without VNNI add pairs of products in 16 bits, which overflow otherwise.
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
        )
        return onnx.load(small)


def joined(model: Any, head: Any, parts: Parts, record: ShippedRecord, opset: int) -> bytes:
    """Return the bytes of the whole file.

    Parameters
    ----------
    model, head : onnx.ModelProto
        The graphs.
    parts : Parts
        The head and its base.
    record : ShippedRecord
        What the file says of itself.
    opset : int
        Version of ONNX's operators.

    Returns
    -------
    bytes

    Raises
    ------
    ExportError
        The graphs do not fit together, or into one file.
    """
    from onnx import checker, helper

    failed = failure(
        f"{parts.source.model} and the head cannot be joined to one graph",
        "export a .pt2 or a .zip",
    )

    with reworded(failed):
        whole = merged(model, head, "features")
        if record.input == "images":
            before = preprocessing_graph(parts.base.transform, opset, model.ir_version)
            whole = merged(before, whole, "pixels")
        whole.graph.name, whole.producer_name = record.head, "bottleneck"
        whole.graph.ClearField("value_info")  # shapes in between, with several names for the batch
        for each in (*whole.graph.input, *whole.graph.output):
            each.type.tensor_type.shape.dim[0].dim_param = "n"
        helper.set_model_props(whole, {SHIPPED: record.as_json()})
        checker.check_model(whole)
        content: bytes = whole.SerializeToString()
    return content


def merged(first: Any, second: Any, by: str) -> Any:
    """Join the output of a graph to the input of the next.

    Parameters
    ----------
    first, second : onnx.ModelProto
        The graphs.
    by : str
        Name of the output and of the input.

    Returns
    -------
    onnx.ModelProto
    """
    from onnx import compose

    second.ir_version = first.ir_version = max(first.ir_version, second.ir_version)
    own = compose.add_prefix(second, f"{by}/", rename_inputs=False, rename_outputs=False)
    return compose.merge_models(first, own, io_map=[(by, by)])
