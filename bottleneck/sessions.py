"""ONNX Runtime, which neither needs PyTorch nor may report what it is used for."""

import os
from types import ModuleType
from typing import Any

from bottleneck.errors import ExportError, first_line, reworded
from bottleneck.extras import import_extra

__all__ = ["import_runtime", "not_run", "open_session"]

_QUIET = "ORT_DISABLE_TELEMETRY"
_ERRORS_ONLY = 3


def import_runtime() -> ModuleType:
    """Import ONNX Runtime, whose official builds send usage data to Microsoft unless told not to.

    Returns
    -------
    module

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    os.environ.setdefault(_QUIET, "1")  # read when it is first imported
    return import_extra("onnxruntime", "an .onnx file", "onnxruntime", extra="onnx")


def open_session(content: bytes, *, threads: int = 0, any_size: bool = False) -> Any:
    """Load an ``.onnx`` file, to compute on the processor.

    Parameters
    ----------
    content : bytes
        The file.
    threads : int
        Number of threads; 0 for one per core.
    any_size : bool
        Whether batches and images of many sizes come for a long time: no plan of memory is kept
        for each size.

    Returns
    -------
    onnxruntime.InferenceSession

    Raises
    ------
    MissingExtraError
        ONNX Runtime is not installed.
    ExportError
        It cannot load the file.
    """
    runtime = import_runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = not any_size
    with reworded(not_run):
        return runtime.InferenceSession(content, options, ["CPUExecutionProvider"])


def not_run(error: Exception) -> ExportError:
    """Return the error for a file that ONNX Runtime cannot load or run.

    Parameters
    ----------
    error : Exception
        What it raised.

    Returns
    -------
    ExportError
    """
    return ExportError(
        f"ONNX Runtime {import_runtime().__version__} cannot run the .onnx file "
        f"({type(error).__name__}: {first_line(error)}); export it with another `opset` or "
        f"`precision`, or as a .pt2"
    )
