"""Pixels that Pillow decodes wrongly: of more than 8 bits, or in rare layouts of TIFF."""

import io
import logging
import re
from typing import Any

import numpy as np
from PIL import Image

from bottleneck.errors import BadImageError, first_line
from bottleneck.extras import import_extra
from bottleneck.images.headers import TiffHeader

__all__ = ["eight_bits", "image_of", "png_samples", "ppm_samples", "significant", "tiff_samples"]

_MOST = 65535
_EIGHT_BITS = 255
_SIXTEEN = 16
_SHORT = 2
"""Bytes of a number of 16 bits."""
_RATIO = 1100
"""What deflate compresses to a byte at most; zstd and lzma do better with empty pixels only."""
_SMALL = 2**26
"""Bytes of samples that are decoded whatever their file's size."""
_ASSOCIATED, _UNASSOCIATED = 1, 2
"""Values of TIFF's ExtraSamples: transparency, which colours are or are not multiplied by."""
_INVERTED, _PALETTE, _CMYK = 0, 3, 5
_PHOTOMETRIC = {_INVERTED, 1, 2, _PALETTE, _CMYK}
"""TIFF's photometric interpretations that are grey, RGB, a palette's colours or CMYK."""
_MODES = {(1, 0): "L", (1, 1): "LA", (3, 0): "RGB", (3, 1): "RGBA", (4, 0): "CMYK"}
_NEEDS = "reading this kind of TIFF"
_PACKAGES = "tifffile imagecodecs"


def eight_bits(
    samples: np.ndarray, top: float | None, *, inverted: bool = False, stated: str = ""
) -> np.ndarray:
    """Scale samples so that 0 is black and `top` is white.

    Parameters
    ----------
    samples : np.ndarray
        Numbers of any shape and type.
    top : float or None
        The value of white; None for a type that has no defined range.
    inverted : bool
        Whether 0 is white and `top` is black.
    stated : str
        What a file states its range by: then larger samples show that it is wrong. Otherwise they
        are taken as white.

    Returns
    -------
    np.ndarray
        uint8 of the same shape.

    Raises
    ------
    BadImageError
        There is no range, a sample is negative or not finite, or is larger than a file states.
    """
    if top is None:
        kind = "float " if samples.dtype.kind == "f" else ""
        raise BadImageError(
            f"{8 * samples.itemsize}-bit {kind}pixels have no defined range; give the value of "
            f"white with `max_value`, or convert to 8 or 16 bits"
        )
    least, most = (samples.min(), samples.max()) if samples.size else (0, 0)
    if not (least >= 0 and np.isfinite(most)):  # nan is neither
        raise BadImageError("pixels are negative or not finite; convert to 8 or 16 bits")
    if stated and most > top:
        raise BadImageError(
            f"pixels of up to {most:g} exceed the {top:g} that {stated} states; give the value of "
            f"white with `max_value`"
        )
    if samples.dtype.kind == "f":
        found = np.minimum(samples / np.float64(top), 1) * _EIGHT_BITS
        scaled = np.rint(found, out=found).astype(np.uint8)
    elif samples.itemsize <= _SHORT:  # a table of all numbers is faster than arithmetic
        scaled = _scaled_whole(np.arange(int(most) + 1), int(top))[
            samples.astype(np.uint16, copy=False)
        ]
    else:
        scaled = _scaled_whole(samples, int(top))
    result: np.ndarray = _EIGHT_BITS - scaled if inverted else scaled
    return result


def _scaled_whole(samples: np.ndarray, white: int) -> np.ndarray:
    whole = np.minimum(samples.astype(np.uint64), white)
    scaled: np.ndarray = ((whole * _EIGHT_BITS + white // 2) // white).astype(np.uint8)
    return scaled


def image_of(samples: np.ndarray, extra: int = _UNASSOCIATED, *, cmyk: bool = False) -> Image.Image:
    """Return an image of 8-bit samples.

    Parameters
    ----------
    samples : np.ndarray
        uint8 of shape (height, width) or (height, width, samples): grey, or three colours, or four
        of CMYK; and transparency, if there is one more sample.
    extra : int
        The meaning of a further sample: 1 if the colours are multiplied by it, 2 if not, anything
        else if it has to be ignored.
    cmyk : bool
        Whether four samples are CMYK.

    Returns
    -------
    PIL.Image.Image
        Of one of the modes L, LA, RGB, RGBA or CMYK.

    Raises
    ------
    BadImageError
        The number of samples has no meaning.
    """
    planes = [samples] if samples.ndim == 2 else list(np.moveaxis(samples, -1, 0))  # noqa: PLR2004 - grey
    colours = 4 if cmyk else 3 if len(planes) > 2 else 1  # noqa: PLR2004 - grey with transparency
    clear = len(planes) > colours and extra in {_ASSOCIATED, _UNASSOCIATED} and not cmyk
    mode = _MODES.get((colours, int(clear)))
    if mode is None or len(planes) < colours:
        raise BadImageError(f"{len(planes)} samples for each pixel have no defined colours")
    bands = [Image.fromarray(np.ascontiguousarray(each)) for each in planes[: colours + clear]]
    if clear and extra == _ASSOCIATED:
        return Image.merge(mode[:-1] + "a", bands).convert(mode)
    return Image.merge(mode, bands) if len(bands) > 1 else bands[0]


def tiff_samples(
    data: bytes, header: TiffHeader, max_value: int | None
) -> tuple[Image.Image, int | None]:
    """Decode the first page of a TIFF file with tifffile.

    Parameters
    ----------
    data : bytes
        The file.
    header : TiffHeader
        Its header.
    max_value : int or None
        The value of white in deep pixels, if the file is not to decide.

    Returns
    -------
    image : PIL.Image.Image
        As stored, not turned upright.
    brightest : int or None
        The largest of samples of 16 bits without a stated range; None for all others.

    Raises
    ------
    MissingExtraError
        tifffile is not installed.
    BadImageError
        A codec is not installed, or the pixels have no defined range or colours.
    """
    tifffile = import_extra("tifffile", _NEEDS, _PACKAGES)
    stored = header.height * header.width * sum(header.bits) // 8
    if stored > max(_SMALL, _RATIO * len(data)):
        raise BadImageError(
            f"{header.width} x {header.height} pixels cannot be in a file of {len(data):,} bytes"
        )
    logger = logging.getLogger("tifffile")
    if not logger.handlers:  # without any, Python would print its warnings
        logger.addHandler(logging.NullHandler())
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as opened:
            page = opened.pages.first
            samples = _page_samples(page)
            colormap, extra = page.colormap, next(iter(page.extrasamples), _UNASSOCIATED)
    except BadImageError:
        raise
    except Exception as error:  # whatever it meets in damaged bytes
        if isinstance(error, ImportError) or "imagecodecs" in str(error):
            raise BadImageError(f"{_NEEDS} needs {_PACKAGES}; run 'pip install {_PACKAGES}'") from (
                error
            )
        raise BadImageError(f"its TIFF pixels cannot be decoded ({first_line(error)})") from error
    if header.photometric not in _PHOTOMETRIC:
        raise BadImageError(
            f"TIFF's photometric interpretation {header.photometric} is not supported for this "
            f"kind of file; convert it to RGB"
        )
    if header.photometric == _PALETTE:
        coloured = np.moveaxis(np.asarray(colormap) >> 8, 0, -1)[samples].astype(np.uint8)
        return image_of(coloured), None
    scaled = image_of(_scaled(samples, header, max_value), extra, cmyk=header.photometric == _CMYK)
    unknown = max_value is None and header.top is None and samples.dtype.kind == "u"
    told = unknown and samples.itemsize == _SHORT and samples.size
    return scaled, int(samples.max()) if told else None


def _page_samples(page: Any) -> np.ndarray:
    """Return the samples of a page, of shape (height, width) or (height, width, samples)."""
    axes = page.axes
    if axes not in {"YX", "YXS", "SYX"}:
        raise BadImageError(f"a TIFF page with the axes {axes} is not a picture")
    if page.bitspersample == 1 and len(axes) > 2:  # noqa: PLR2004 - whose order programs disagree on
        raise BadImageError("TIFF pixels of several samples of 1 bit cannot be read")
    samples = np.asarray(page.asarray(maxworkers=1))
    return np.moveaxis(samples, 0, -1) if axes == "SYX" else samples


def _scaled(samples: np.ndarray, header: TiffHeader, max_value: int | None) -> np.ndarray:
    bits, kind = header.bits[0], samples.dtype.kind
    top: float | None = max_value if header.deep else None
    stated = ""
    if top is None and header.top is not None and header.maximum == header.top:
        top, stated = header.top, "MaxSampleValue"
    elif top is None and bits <= _SIXTEEN and kind != "f":
        top = 2 ** (bits - (kind == "i")) - 1
    return eight_bits(samples, top, inverted=header.inverted, stated=stated)


def png_samples(data: bytes) -> np.ndarray:
    """Decode a 16-bit PNG file in colour or with transparency, which Pillow reduces to 8 bits.

    Parameters
    ----------
    data : bytes
        The file.

    Returns
    -------
    np.ndarray
        uint16 of shape (height, width, samples).

    Raises
    ------
    MissingExtraError
        imagecodecs is not installed.
    RuntimeError
        The file is damaged.
    """
    codecs = import_extra("imagecodecs", "scaling the colours of a 16-bit PNG", "imagecodecs")
    found: np.ndarray = codecs.png_decode(data)
    return found


def significant(samples: np.ndarray, bits: int) -> int:
    """Return the value of white in 16-bit samples of which a PNG file states fewer bits (sBIT).

    By the specification, samples are scaled up to 16 bits, and so the range is full. Many programs
    store them as they are, in the low bits.

    Parameters
    ----------
    samples : np.ndarray
        uint16 of any shape.
    bits : int
        The number of significant bits.

    Returns
    -------
    int
        65535, or ``2**bits - 1`` if the samples are in the low bits.
    """
    top = 2**bits - 1
    if not samples.size or samples.max() > top:
        return _MOST
    high = samples >> (_SIXTEEN - bits)
    repeated = (high << (_SIXTEEN - bits)) | (high >> max(2 * bits - _SIXTEEN, 0))
    linear = (high.astype(np.uint32) * _MOST + top // 2) // top
    as_specified = (samples == repeated) | (samples == linear)
    as_specified |= samples == high << (_SIXTEEN - bits)
    return _MOST if as_specified.all() else top


def ppm_samples(data: bytes, opened: Image.Image) -> np.ndarray:
    """Return the samples of a PPM or PGM file of 16 bits, as they are stored.

    Parameters
    ----------
    data : bytes
        The file.
    opened : PIL.Image.Image
        The same, not loaded yet.

    Returns
    -------
    np.ndarray
        Whole numbers of shape (height, width) or (height, width, 3).
    """
    kind, width, height, top = re.sub(rb"#[^\r\n]*", b"", data[:4096]).split()[:4]
    if opened.mode == "I":  # Pillow scales to 16 bits, in which no value is lost
        return np.rint(np.asarray(opened).astype(np.float64) * int(top) / _MOST).astype(np.uint32)
    if int(top) <= _EIGHT_BITS:
        return np.asarray(opened)
    offset, shape = opened.tile[0].offset, (int(height), int(width), 3)  # type: ignore[attr-defined]
    if kind == b"P6":
        return np.frombuffer(data, ">u2", np.prod(shape, dtype=int), offset).reshape(shape)
    found = np.array(data[offset:].split()[: np.prod(shape, dtype=int)], np.uint32)
    return found.reshape(shape)
