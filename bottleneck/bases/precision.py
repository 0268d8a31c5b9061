"""In which numbers a base computes, and on what."""

from typing import TYPE_CHECKING, Any

from bottleneck.errors import UsageError
from bottleneck.settings.values import check_device

if TYPE_CHECKING:
    import torch

__all__ = ["choose_precision", "device_names", "dtype_of", "find_devices", "onednn_computes"]

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def dtype_of(precision: str) -> "torch.dtype":
    """Return the type of weights and activations.

    Parameters
    ----------
    precision : str
        A name of a precision, such as ``fp32`` or ``bf16``.

    Returns
    -------
    torch.dtype

    Raises
    ------
    KeyError
        There is no such precision.
    """
    import torch

    dtype: torch.dtype = getattr(torch, _DTYPES[precision])
    return dtype


def choose_precision(wanted: str, device: "torch.device", *, dense: bool) -> str:
    """Return the precision that a name stands for.

    ``auto`` is ``bf16`` where the device multiplies bfloat16 natively and the network is dense,
    else ``fp32``: the few weights of a depthwise convolution are such that their rounding does not
    average out (docs/performance.md has the figures).

    Parameters
    ----------
    wanted : str
        ``auto``, or the name of a precision, which is returned as it is.
    device : torch.device
        Where to compute.
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
    """Return the devices that a name stands for.

    Parameters
    ----------
    wanted : str or torch.device
        As for `device_names`.

    Returns
    -------
    tuple of torch.device
        The processor, or one or several GPUs.

    Raises
    ------
    UsageError
        There is no such device.
    """
    import torch

    return tuple(map(torch.device, device_names(wanted)))


def device_names(wanted: "str | torch.device") -> tuple[str, ...]:
    """Return the names of the devices that a name stands for; PyTorch is asked about GPUs alone.

    Parameters
    ----------
    wanted : str or torch.device
        ``auto`` (the first GPU if there is one, else the processor), ``cpu``, ``cuda``, ``cuda:N``,
        or several GPUs as ``cuda:0,cuda:1``.

    Returns
    -------
    tuple of str
        ``cpu``, or one or several ``cuda:N``.

    Raises
    ------
    UsageError
        There is no such device.
    """
    names = list(dict.fromkeys(map(str.strip, check_device(str(wanted)).split(","))))
    if names == ["cpu"]:
        return ("cpu",)
    if "cpu" in names:
        raise UsageError(
            f"the processor and a GPU ({str(wanted)!r}) cannot share a run; give either"
        )

    import torch

    gpus = torch.cuda.device_count()
    if names == ["auto"]:
        return ("cuda:0" if gpus else "cpu",)
    indexed = dict.fromkeys("cuda:0" if name == "cuda" else name for name in names)
    for name in indexed:
        if int(name.removeprefix("cuda:")) >= gpus:
            here = f"there are {gpus} here" if gpus else "PyTorch finds none here"
            raise UsageError(f"no GPU {name!r}: {here}; give `device=auto`")
    return tuple(indexed)


def onednn_computes(dtype: "torch.dtype") -> bool:
    """Tell whether oneDNN computes in a type here, and PyTorch hands it single operations.

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
    # PyTorch asks the processor under these names only. Its fast products of bfloat16 are oneDNN's,
    # which ONEDNN_MAX_CPU_ISA may hold to fewer instructions; its own take a hundred times as long
    # as those of float32.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # noqa: SLF001
    return native and onednn_computes(torch.bfloat16)
