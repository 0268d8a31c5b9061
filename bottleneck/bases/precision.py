"""The precision and the devices that a base computes with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bottleneck.errors import UsageError
from bottleneck.settings.values import check_device

if TYPE_CHECKING:
    import torch

__all__ = ["choose_precision", "device_names", "find_devices", "one_thread", "onednn_computes"]


def choose_precision(wanted: str, device: "torch.device", *, dense: bool) -> str:
    """Return the precision for a name.

    ``auto`` is ``bf16`` if the device multiplies bfloat16 natively and the network is dense, else
    ``fp32``: in depthwise convolutions with their few weights, rounding errors do not average out
    (docs/performance.md has the figures).

    Parameters
    ----------
    wanted : str
        ``auto``, or the name of a precision, which is returned unchanged.
    device : torch.device
        The device to compute on.
    dense : bool
        Whether the network has no depthwise convolutions.

    Returns
    -------
    str
        The name of a precision.
    """
    if wanted != "auto":
        return wanted
    return "bf16" if dense and _multiplies_bfloat16(device) else "fp32"


def find_devices(wanted: "str | torch.device") -> tuple["torch.device", ...]:
    """Return the devices for a name.

    Parameters
    ----------
    wanted : str or torch.device
        As for `device_names`.

    Returns
    -------
    tuple of torch.device
        The CPU, or one or several GPUs.

    Raises
    ------
    UsageError
        The device does not exist.
    """
    import torch

    return tuple(map(torch.device, device_names(wanted)))


def device_names(wanted: "str | torch.device") -> tuple[str, ...]:
    """Return the device names for a name; PyTorch is only imported if GPUs are involved.

    Parameters
    ----------
    wanted : str or torch.device
        ``auto`` (the first GPU if there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:N``, or
        several GPUs as ``cuda:0,cuda:1``.

    Returns
    -------
    tuple of str
        ``cpu``, or one or several ``cuda:N``.

    Raises
    ------
    UsageError
        The device does not exist.
    """
    names = list(dict.fromkeys(map(str.strip, check_device(str(wanted)).split(","))))
    if names == ["cpu"]:
        return ("cpu",)
    if "cpu" in names:
        raise UsageError(
            f"`device` {str(wanted)!r} mixes the CPU with a GPU; give one or the other"
        )

    import torch

    gpus = torch.cuda.device_count()
    if names == ["auto"]:
        return ("cuda:0" if gpus else "cpu",)
    indexed = dict.fromkeys("cuda:0" if name == "cuda" else name for name in names)
    for name in indexed:
        if int(name.removeprefix("cuda:")) >= gpus:
            raise UsageError(
                f"no GPU {name!r}: PyTorch finds {gpus or 'none'} here; give `device=auto`"
            )
    return tuple(indexed)


def onednn_computes(dtype: "torch.dtype") -> bool:
    """Return whether oneDNN supports a type here, and PyTorch exposes single operations of it.

    Parameters
    ----------
    dtype : torch.dtype
        Type of weights and activations.

    Returns
    -------
    bool
    """
    import torch

    operators: Any = torch.ops.mkldnn
    if not torch._C._has_mkldnn or not hasattr(operators, "_convolution_pointwise"):  # noqa: SLF001
        return False
    if dtype == torch.bfloat16:
        return bool(operators._is_mkldnn_bf16_supported())  # noqa: SLF001
    if dtype == torch.float16:
        return bool(operators._is_mkldnn_fp16_supported())  # noqa: SLF001
    return True


def _multiplies_bfloat16(device: "torch.device") -> bool:
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # PyTorch reports CPU features only under these names. Its fast bfloat16 products are oneDNN's,
    # which ONEDNN_MAX_CPU_ISA may limit to fewer instructions; its own are a hundred times slower
    # than float32.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # noqa: SLF001
    return native and onednn_computes(torch.bfloat16)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread for many small steps, which more threads would slow down.

    Yields
    ------
    None
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
