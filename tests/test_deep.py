"""TIFF files in all variants, written by tifffile and compared with the array that was written.

About 6 s.
"""

import hashlib
import io
import itertools
import struct
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import tifffile

from bottleneck.errors import BadImageError
from bottleneck.images import decode, decode_whole, read_size
from bottleneck.images.items import digest_of

HEIGHT, WIDTH = 20, 26
COLOURS = {
    "minisblack": (1, 2),
    "miniswhite": (1,),
    "rgb": (3, 4),
    "separated": (4,),
    "palette": (1,),
}
DEPTHS = {"bool": 1, "u2": 2, "u4": 4, "u8": 8, "u10": 10, "u12": 12, "u14": 14, "u16": 16}
SIGNED = {"i8": 7, "i16": 15}
NO_RANGE = ("u32", "i32", "f16", "f32", "f64")
COMPRESSIONS = (None, "deflate", "lzw", "packbits", "zstd", "lzma", "png", "jpeg2000", "lerc")
LOSSY = ("jpeg", "webp")


def drawn(depth: str, shape: tuple[int, ...], *, smooth: bool = False) -> np.ndarray:
    """Random samples, or for lossy compressions a ramp."""
    bits = (DEPTHS | SIGNED).get(depth, int(depth[1:]) if depth != "bool" else 1)
    if depth.startswith("f"):
        return np.random.default_rng(0).random(shape).astype(f"f{int(depth[1:]) // 8}")
    kind = "i" if depth.startswith("i") else "u"
    size = next(size for size in (8, 16, 32) if size >= bits)
    values = np.random.default_rng(0).integers(0, 2**bits, shape)
    if smooth:
        values = np.broadcast_to(np.linspace(0, 2**bits - 1, WIDTH).astype(int), shape[:2])
        values = values if len(shape) == 2 else np.stack([values] * shape[2], axis=-1)
    return values.astype(bool if depth == "bool" else f"{kind}{size // 8}")


def colours_of(samples: np.ndarray, photometric: str, white: float, colormap) -> np.ndarray:
    """Return what an image has to look like: floats from 0 to 255, (height, width, 3)."""
    if photometric == "palette":
        return np.moveaxis(colormap, 0, -1)[samples] / 257
    values = samples / white * 255
    if photometric == "miniswhite":
        values = 255 - values
    if values.ndim == 2:
        return np.repeat(values[..., None], 3, axis=2)
    if photometric == "separated":
        inks, black = values[..., :3], values[..., 3:]
        return 255 - np.minimum(255, inks * (1 - black / 255) + black)
    count = values.shape[-1]
    if count % 2:
        return values
    alpha = values[..., -1:] / 255
    return np.broadcast_to(values[..., :-1] * alpha + 255 * (1 - alpha), (HEIGHT, WIDTH, 3))


def variants(depths, compressions=COMPRESSIONS) -> Iterator[tuple]:
    """Yield all combinations, those that no writer makes included."""
    for photometric, counts in COLOURS.items():
        for count, planar in itertools.product(counts, ("contig", "separate")):
            if count > 1 or planar == "contig":
                kinds = itertools.product(
                    depths, compressions, (False, True), "<>", (None, (16, 16))
                )
                yield from ((photometric, count, planar, *kind) for kind in kinds)


def written(variant: tuple) -> tuple[bytes, np.ndarray]:
    """Return a TIFF and its colours; raise if tifffile does not write such a variant."""
    photometric, count, planar, depth, compression, predictor, order, tile = variant
    shape = (HEIGHT, WIDTH) if count == 1 else (HEIGHT, WIDTH, count)
    samples = drawn(depth, shape, smooth=compression in LOSSY)
    bits = (DEPTHS | SIGNED).get(depth, 0)
    colormap = None
    options = {}
    if photometric == "palette":
        colormap = np.random.default_rng(1).integers(0, 256, (3, 2**bits)) * 257
        options["colormap"] = colormap.astype("u2")
    if count % 2 == 0 and photometric != "separated":
        options["extrasamples"] = ["unassalpha"]
    if depth[0] == "u" and bits not in {8, 16, 0}:
        options["bitspersample"] = bits
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        np.moveaxis(samples, -1, 0) if planar == "separate" else samples,
        photometric=photometric,
        planarconfig=planar if count > 1 else None,
        compression=compression,
        predictor=predictor,
        byteorder=order,
        tile=tile,
        metadata=None,
        **options,
    )
    return file.getvalue(), colours_of(samples, photometric, max(2**bits - 1, 1), colormap)


def is_mistaken(variant: tuple) -> bool:
    """Whether tifffile writes something else than it was given; its reader is right, see below."""
    _, count, _, depth, compression, _, order, _ = variant
    packed = depth in {"u2", "u4", "u10", "u12", "u14"}
    lossy = compression in LOSSY and (packed or variant[0] == "palette")
    swapped = order == ">" and (packed or (compression == "jpeg2000" and not depth.endswith("8")))
    return swapped or lossy or (depth == "bool" and count > 1)


def outcomes(cases: Iterator[tuple]) -> dict[tuple, str]:
    """Return what becomes of each variant that can be written."""
    found = {}
    for variant in cases:
        try:
            data, colours = written(variant)
        except (ValueError, TypeError, NotImplementedError, RuntimeError, KeyError, OSError):
            continue
        if is_mistaken(variant):
            continue
        try:
            pixels = decode(data)
        except BadImageError as error:
            found[variant] = str(error)
            continue
        _, count, _, _, compression, *_ = variant
        # Two roundings where samples are multiplied: transparency, and black ink.
        tolerance = 6 if compression in LOSSY else 2.6 if count in {2, 4} else 1.01
        gap = np.abs(pixels - colours).max()
        found[variant] = "right" if gap <= tolerance else f"wrong by {gap:.3g}"
        assert read_size(io.BytesIO(data)) == (HEIGHT, WIDTH)
    return found


def test_depths_with_a_range_are_decoded_rightly(capfd):
    """Every variant that can be written, without a word of libtiff; where it has colours."""
    some = ("bool", "u8", "u12", "u16", "i16")
    found = outcomes(variants(some, (None, "packbits")))
    assert len(found) > 150
    assert {variant: what for variant, what in found.items() if what != "right"} == {}
    assert capfd.readouterr() == ("", "")


@pytest.mark.ci
def test_all_variants_are_decoded_rightly():
    """About 20 s."""
    found = outcomes(variants(DEPTHS | SIGNED)) | outcomes(variants(["u8"], LOSSY))
    assert len(found) > 1200
    assert {variant: what for variant, what in found.items() if what != "right"} == {}


def test_depths_without_a_range_are_refused():
    found = outcomes(variants(("u32", "f16", "f32", "f64"), (None,)))
    assert len(found) > 50
    for variant, what in found.items():
        assert "pixels have no defined range; give the value of white with `max_value`" in what, (
            variant
        )


@pytest.mark.parametrize("depth", NO_RANGE)
def test_a_given_range_serves_all_depths(depth):
    samples = np.array([[0, 1, 2, 3]]).astype(f"{depth[0]}{int(depth[1:]) // 8}")
    file = io.BytesIO()
    tifffile.imwrite(file, samples, photometric="minisblack")
    pixels = decode(file.getvalue(), max_value=2)
    assert pixels[0, :, 0].tolist() == [0, 128, 255, 255]


def by_hand(order: str, tags: dict[int, tuple[int, ...]], pixels: bytes) -> bytes:
    """A TIFF of one strip; values of tags are numbers of 16 bits."""
    tags = {256: (WIDTH,), 257: (HEIGHT,), 273: (0, 0), 277: (1,), 279: (0, 0)} | tags
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b""
    for tag, values in sorted(tags.items()):
        if tag in {273, 279}:
            entries += struct.pack(f"{order}HHLL", tag, 4, 1, start if tag == 273 else len(pixels))
        else:
            assert len(values) <= 2
            entries += struct.pack(f"{order}HHL", tag, 3, len(values))
            entries += struct.pack(f"{order}{len(values)}H", *values).ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}LH", 8, len(tags))
    return head + entries + struct.pack(f"{order}L", 0) + pixels


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("inverted", [False, True])
def test_packed_bits_are_decoded(order, bits, inverted):
    """Big-endian, too, which tifffile reads and does not write."""
    samples = drawn(f"u{bits}", (HEIGHT, WIDTH))
    planes = np.unpackbits(samples.astype(">u2").view(np.uint8).reshape(HEIGHT, WIDTH, 2), axis=2)
    strip = np.packbits(planes[:, :, 16 - bits :].reshape(HEIGHT, -1), axis=1).tobytes()
    data = by_hand(order, {258: (bits,), 259: (1,), 262: (0 if inverted else 1,)}, strip)
    expected = samples / (2**bits - 1) * 255
    gap = np.abs(decode(data)[..., 0] - (255 - expected if inverted else expected))
    assert gap.max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("bits", "type_of"), [(8, "u1"), (16, "u2")])
def test_white_that_is_zero_is_inverted(order, bits, type_of):
    samples = drawn(f"u{bits}", (HEIGHT, WIDTH))
    strip = samples.astype(f"{order}{type_of}").tobytes()
    data = by_hand(order, {258: (bits,), 259: (1,), 262: (0,)}, strip)
    gap = np.abs(decode(data)[..., 0] - (255 - samples / (2**bits - 1) * 255))
    assert gap.max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("inverted", [False, True])
def test_deep_files_are_turned_upright(orientation, inverted):
    """By Pillow's reader and by tifffile's."""
    samples = np.arange(0, 100 * HEIGHT * WIDTH, 100).reshape(HEIGHT, WIDTH)
    data = by_hand(
        ">",
        {258: (16,), 259: (1,), 262: (0 if inverted else 1,), 274: (orientation,)},
        samples.astype(">u2").tobytes(),
    )
    grey = (samples * 255 + 32767) // 65535
    eight = (255 - grey if inverted else grey).astype(np.uint8).tobytes()
    expected = decode(by_hand(">", {258: (8,), 259: (1,), 262: (1,), 274: (orientation,)}, eight))
    assert np.array_equal(decode(data), expected)
    assert read_size(io.BytesIO(data)) == expected.shape[:2]


def test_the_largest_value_is_reported_by_either_reader():
    samples = drawn("u12", (HEIGHT, WIDTH))
    for order, inverted in (("<", True), (">", True), (">", False)):
        strip = samples.astype(f"{order}u2").tobytes()
        data = by_hand(order, {258: (16,), 259: (1,), 262: (0 if inverted else 1,)}, strip)
        assert decode_whole(data).brightest == samples.max()
        assert decode_whole(data, max_value=4095).brightest is None
    assert decode_whole(stated(samples, 4095, "miniswhite", byteorder=">")).brightest is None


def stated(samples: np.ndarray, maximum: int, photometric: str = "minisblack", **options) -> bytes:
    count = 1 if samples.ndim == 2 else samples.shape[2]
    file = io.BytesIO()
    tags = [(281, "H", count, (maximum,) * count if count > 1 else maximum, True)]
    tifffile.imwrite(file, samples, photometric=photometric, extratags=tags, **options)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"compression": "lzw"}, {"byteorder": ">"}])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite", "rgb"])
def test_a_stated_range_scales(photometric, options):
    count = 3 if photometric == "rgb" else 1
    shape = (HEIGHT, WIDTH, count) if count > 1 else (HEIGHT, WIDTH)
    samples = drawn("u12", shape)
    gap = np.abs(
        decode(stated(samples, 4095, photometric, **options))
        - colours_of(samples, photometric, 4095, None)
    )
    assert gap.max() <= 1


def test_a_stated_range_that_is_wrong_is_reported():
    data = stated(drawn("u16", (HEIGHT, WIDTH)), 4095)
    with pytest.raises(BadImageError, match="exceed the 4095 that MaxSampleValue states"):
        decode(data)
    assert decode(data, max_value=4095).max() == 255
    assert np.array_equal(
        decode(stated(drawn("u16", (HEIGHT, WIDTH)), 65535)),
        decode(stated(drawn("u16", (HEIGHT, WIDTH)), 0)),
    )


@pytest.mark.parametrize("missing", ["tifffile", "imagecodecs"])
def test_what_pillow_decodes_wrongly_needs_the_extra(monkeypatch, missing):
    """Never wrong pixels; the sentence names what to install."""
    data, _ = written(("miniswhite", 1, "contig", "u16", "zstd", True, ">", None))
    assert decode(data).any()
    for name in [name for name in sys.modules if name.partition(".")[0] == "tifffile"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(BadImageError, match="run 'pip install tifffile imagecodecs'"):
        decode(data)
    easy, _ = written(("minisblack", 1, "contig", "u16", None, False, "<", None))
    assert decode(easy).any()


def test_only_files_that_were_decoded_otherwise_have_another_digest():
    """The SHA-256 of the bytes for all others, so that their features stay."""
    plain, new = set(), set()
    for variant in variants(["bool", "u8", "u12", "u16", "i8"], (None, "lzw", "packbits")):
        try:
            data, _ = written(variant)
        except (ValueError, TypeError, NotImplementedError, RuntimeError, KeyError):
            continue
        same = digest_of(data) == hashlib.sha256(data).hexdigest()
        (plain if same else new).add(variant)
    assert ("minisblack", 1, "contig", "u16", "lzw", True, ">", None) in plain
    assert ("rgb", 3, "separate", "u8", "packbits", False, "<", (16, 16)) in plain
    assert ("miniswhite", 1, "contig", "u16", None, False, "<", None) in new
    assert ("minisblack", 1, "contig", "u8", "packbits", True, "<", None) in new


def test_the_first_of_several_pages_is_used():
    file = io.BytesIO()
    pages = drawn("u8", (2, HEIGHT, WIDTH))
    tifffile.imwrite(file, pages, photometric="minisblack")
    assert np.array_equal(decode(file.getvalue())[..., 0], pages[0])


def test_more_pixels_than_a_file_can_hold_are_refused_at_once():
    tags = {256: (13_000,), 257: (13_000,), 258: (16,), 259: (32773,), 262: (0,), 317: (2,)}
    with pytest.raises(BadImageError, match="cannot be in a file of .* bytes"):
        decode(by_hand("<", tags, b"\x81\0" * 100))
