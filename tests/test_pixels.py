"""Pixels: formats, depths, limits, and damaged files. About 10 s."""

import hashlib
import io
import json
import os
import struct
import sys
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bottleneck import (
    Cache,
    FrozenBase,
    Head,
    ImageSet,
    extract_features,
    features_of,
    fit_head,
    load_features,
)
from bottleneck.errors import BadImageError, DataError, UsageError
from bottleneck.exchange import import_array
from bottleneck.images import decode, decode_whole, read_size, replacement_of, same_images
from bottleneck.images.items import digest_of, digests_of_file
from bottleneck.images.kinds import IMAGE_SUFFIXES, is_image, kind_of

PILLOW = {
    "JPEG": "JPEG",
    "PNG": "PNG",
    "WebP": "WEBP",
    "BMP": "BMP",
    "TIFF": "TIFF",
    "GIF": "GIF",
    "PPM": "PPM",
    "AVIF": "AVIF",
    "HEIC": "HEIF",
}
LIMIT = 10**9
TINY = (
    "--model",
    "squeezenet1_1",
    "--weights",
    "random",
    "--layer",
    "classifier.1",
    "--pool",
    "avg",
)
TINY = (*TINY, "--image-size", "64")


def noise(mode: str = "RGB", size: tuple[int, int] = (30, 24)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    return Image.fromarray(values).convert(mode)


def encoded(kind: str, image: Image.Image | None = None, **options) -> bytes:
    if kind == "HEIC":
        pytest.importorskip("pillow_heif").register_heif_opener()
    stream = io.BytesIO()
    (image or noise()).save(stream, PILLOW[kind], **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", PILLOW)
def test_every_format_is_known_by_its_content_and_decoded(kind):
    lossless = {"WebP": {"lossless": True}, "AVIF": {"quality": 100}, "HEIC": {"quality": 100}}
    image = Image.new("RGB", (30, 24), (200, 30, 40))
    data = encoded(kind, image, **lossless.get(kind, {}))
    assert kind_of(data) == kind
    pixels = decode(data)
    assert pixels.shape == (24, 30, 3)
    assert np.abs(pixels.astype(int) - (200, 30, 40)).max() <= 3
    assert read_size(io.BytesIO(data)) == (24, 30)


def test_no_library_writes_about_damaged_files(capfd):
    """Their C code would do so to standard error, past Python's."""
    whole = {kind: encoded(kind) for kind in PILLOW if kind != "HEIC"}
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        whole[compression] = encoded("TIFF", compression=compression)
    for data in whole.values():
        third = len(data) // 3
        for damaged in (
            data[: 2 * third],
            data[:third] + b"\xff\x00" * 100 + data[third + 200 :],
            data[:60] + data[90:],
        ):
            with suppress(BadImageError):
                decode(damaged)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientations_of_all_formats_that_have_them(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.new("RGB", (60, 40), "white")
    image.paste("black", (0, 0, 20, 10))
    lossless = {"lossless": True} if kind == "WebP" else {}
    data = encoded(kind, image, exif=exif, **lossless)
    pixels = decode(data)
    corner = {1: (0, 0), 3: (-1, -1), 6: (0, -1), 8: (-1, 0)}[orientation]
    assert pixels.shape == ((40, 60, 3) if orientation < 5 else (60, 40, 3))
    dark = np.argwhere(pixels[[0, 0, -1, -1], [0, -1, 0, -1]].max(axis=1) < 60)
    assert dark.tolist() == [[[(0, 0), (0, -1), (-1, 0), (-1, -1)].index(corner)]]
    assert read_size(io.BytesIO(data)) == pixels.shape[:2]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x"])
def test_exif_that_cannot_be_read_is_ignored(kind, exif):
    lossless = {"lossless": True} if kind == "WebP" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, damaged = (encoded(kind, exif=each, **lossless) for each in (b"", exif))
        assert np.array_equal(decode(damaged), decode(plain))
        assert read_size(io.BytesIO(damaged)) == (24, 30)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_that_lacks_only_its_end_marker_is_used(mode, options):
    """At every length: the whole picture, or a bad image."""
    data = encoded("JPEG", noise(mode), **options)
    whole = decode(data)
    used = []
    for length in range(len(data)):
        try:
            pixels = decode(data[:length])
        except BadImageError:
            continue
        assert np.array_equal(pixels, whole)
        used.append(len(data) - length)
    assert used == [2, 1]


def test_pages_and_frames_are_reported():
    pages = [noise(), noise().rotate(180)]
    for kind in ("TIFF", "GIF", "PNG", "WebP", "AVIF"):
        data = encoded(kind, pages[0], save_all=True, append_images=pages[1:])
        assert decode_whole(data).pages, kind
        assert not decode_whole(encoded(kind, pages[0])).pages, kind


def deep_png(samples: np.ndarray, bits: int | None = None) -> bytes:
    """A 16-bit PNG with the chunk sBIT."""
    count = 1 if samples.ndim == 2 else samples.shape[2]
    height, width = samples.shape[:2]

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">L", len(content)) + name + content + struct.pack(">L", checksum)

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[count]
    rows = samples.astype(">u2").reshape(height, -1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 16, kind, 0, 0, 0))
        + (chunk(b"sBIT", bytes([bits] * count)) if bits else b"")
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def low(bits: int, count: int = 1, shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    whole = shape if count == 1 else (*shape, count)
    values = np.random.default_rng(0).integers(0, 2**bits, whole)
    values[0, 0] = 2**bits - 1
    return values


def shown(samples: np.ndarray, white: int) -> np.ndarray:
    values = samples / white * 255
    if values.ndim == 2:
        return np.repeat(values[..., None], 3, axis=2)
    if values.shape[-1] % 2:
        return values
    alpha = values[..., -1:] / 255
    return values[..., :-1] * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_a_stated_range_of_png_scales(count, bits):
    """Of samples in the low bits, as many programs store them; and in the high ones, as it says."""
    samples, white = low(bits, count), 2**bits - 1
    gap = np.abs(decode(deep_png(samples, bits)) - shown(samples, white))
    assert gap.max() <= 2.6
    shifted = samples << (16 - bits)
    repeated = shifted | (samples >> (2 * bits - 16))
    linear = np.rint(samples * 65535 / white).astype(int)
    dark = (samples >> (bits - 2)) << (16 - bits)
    for high in (shifted, repeated, linear, dark):
        plain = decode(deep_png(high))
        assert np.abs(decode(deep_png(high, bits)).astype(int) - plain).max() <= 2


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_given_range_scales_every_deep_image(count):
    samples = low(12, count)
    expected = shown(samples, 4095)
    for data in (deep_png(samples), deep_png(samples, 10), deep_png(samples, 16)):
        assert np.abs(decode(data, max_value=4095) - expected).max() <= 2.6
    assert decode(deep_png(low(16, count)), max_value=4095)[..., 0].max() == 255


@pytest.mark.parametrize(
    ("head", "samples", "white"),
    [
        (b"P5 30 20 4095\n", low(12), 4095),
        (b"P5\n# a remark\n30 20\n65535\n", low(12), 65535),
        (b"P6 30 20 4095\n", low(12, 3), 4095),
        (b"P2 30 20 4095\n", low(12), 4095),
        (b"P3 30 20 4095\n", low(12, 3), 4095),
    ],
)
def test_portable_maps_are_scaled_by_their_header(head, samples, white):
    """Their header states the range; a given one takes precedence."""
    plain = head[1:2] in b"23"
    text = " ".join(map(str, samples.ravel())).encode()
    data = head + (text if plain else samples.astype(">u2").tobytes())
    assert np.abs(decode(data) - shown(samples, white)).max() <= 1.01
    expected = np.minimum(shown(samples, 2000), 255)
    assert np.abs(decode(data, max_value=2000) - expected).max() <= 1.01
    eight = encoded("PPM")
    assert np.array_equal(decode(eight, max_value=2000), decode(eight))


def test_colours_of_16_bits_that_need_the_extra(monkeypatch):
    """Only where the samples may be in the low bits, or a range is given."""
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert decode(deep_png(low(12, 3))).any()
    assert decode(deep_png(low(12, 3) * 16, 12)).any()
    for stated, options in ((12, {}), (None, {"max_value": 4095})):
        with pytest.raises(BadImageError, match="needs imagecodecs, .* 'pip install imagecodecs'"):
            decode(deep_png(low(12, 3), stated), **options)


def test_the_largest_value_is_reported_where_no_range_is_stated():
    for count in (1, 3):
        told = decode_whole(deep_png(low(12, count))).brightest
        assert told == pytest.approx(4095, abs=256)
    assert decode_whole(deep_png(low(12), 12)).brightest is None
    assert decode_whole(deep_png(low(12)), max_value=4095).brightest is None
    assert decode_whole(encoded("PNG")).brightest is None


@pytest.mark.parametrize("kind", PILLOW)
def test_images_of_more_pixels_than_the_limit_are_refused(kind):
    data = encoded(kind)
    assert decode(data, max_pixels=24 * 30).shape == (24, 30, 3)
    with pytest.raises(BadImageError, match="limit of 719; raise it with `max_pixels`"):
        decode(data, max_pixels=24 * 30 - 1)


@pytest.mark.parametrize("kind", PILLOW)
def test_a_raised_limit_is_that_of_pillow_too(kind, monkeypatch):
    """Which would refuse these images, or warn of them."""
    data = encoded(kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data, max_pixels=24 * 30).shape == (24, 30, 3)
    assert Image.MAX_IMAGE_PIXELS == 24 * 30
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    decode(data)
    assert Image.MAX_IMAGE_PIXELS is None


def seeds() -> dict[str, bytes]:
    """Small files of every kind."""
    found = {kind: encoded(kind) for kind in PILLOW if kind != "HEIC"}
    exif = Image.Exif()
    exif[0x0112] = 6
    found |= {f"{kind}, EXIF": encoded(kind, exif=exif) for kind in ("JPEG", "PNG", "WebP", "AVIF")}
    found["progressive"] = encoded("JPEG", progressive=True)
    found["palette"] = encoded("PNG", noise("P"))
    found["LZW"] = encoded("TIFF", compression="tiff_lzw")
    found["deep"] = deep_png(low(12), 12)
    found["deep colours"] = deep_png(low(12, 3), 12)
    found["inverted"] = b"MM\0*" + struct.pack(
        ">LH" + "HHLHH" * 6 + "HHLL" * 2 + "L",
        *(8, 8, 256, 3, 1, 30, 0, 257, 3, 1, 20, 0, 258, 3, 1, 16, 0, 259, 3, 1, 1, 0),
        *(262, 3, 1, 0, 0, 277, 3, 1, 1, 0, 273, 4, 1, 110, 279, 4, 1, 1200, 0),
    )
    found["inverted"] += low(16).astype(">u2").tobytes()
    found["portable"] = b"P3 2 1 4095\n0 1 2 3 4 4095\n"
    if "pillow_heif" in sys.modules:
        found["HEIC"] = encoded("HEIC")
    return found


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    return seeds()


def assert_is_decoded_or_bad(data: bytes, max_value: int | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = decode(data, max_value=max_value, max_pixels=10**6)
        except BadImageError as error:
            reason = str(error)
        else:
            reason = "none"
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
        size = read_size(io.BytesIO(data))
    assert reason
    assert "\n" not in reason
    assert len(size) == 2
    assert len(digest_of(data)) == 64


DAMAGE = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=12)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_files_are_decoded_or_bad_images(whole, data):
    """Cut off, with bytes changed near the beginning or anywhere; never another exception."""
    content = bytearray(whole[data.draw(st.sampled_from(sorted(whole)))])
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    near = data.draw(st.sampled_from([40, 200, 10**6]))
    for place, value in data.draw(DAMAGE):
        if content:
            content[place % min(len(content), near)] = value
    assert_is_decoded_or_bad(bytes(content), data.draw(st.sampled_from([None, 4095])))


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(["", *sorted(PILLOW)]), st.binary(max_size=400))
def test_random_bytes_are_bad_images(whole, kind, data):
    """On their own, or after a true beginning."""
    assert_is_decoded_or_bad(whole.get(kind, b"")[:24] + data, None)


def test_all_cuts_of_small_files_are_reported(whole):
    """A file that is cut off within its pixels is never taken for a whole one."""
    for kind in ("PNG", "GIF", "BMP", "TIFF", "LZW", "deep", "inverted", "WebP"):
        for share in (0.3, 0.6, 0.9):
            cut = whole[kind][: int(share * len(whole[kind]))]
            with pytest.raises(BadImageError):
                decode(cut)


def test_images_are_found_by_name_and_content():
    Path("data").mkdir()
    contents = {
        "photo": encoded("JPEG"),
        "PHOTO.PNG": encoded("PNG"),
        "scan.TIF": encoded("TIFF"),
        "small.pgm": b"P5 2 1 255\n\0\1",
        "mask.pbm": b"P4 8 1\n\xaa",
        "x.unknown": encoded("WebP"),
        "no.jpg": b"no image",
        "no.heic": b"no image",
        "layers.psd": b"8BPS" + bytes(40),
        "raw.dng": encoded("TIFF"),
        "notes": b"P5 is a note",
        "notes.txt": b"BM is a note too, and longer than the header of an image",
        "model.bin": bytes(100),
        "empty.jpg": b"",
    }
    for name, content in contents.items():
        Path("data", name).write_bytes(content)
    os.mkfifo("data/pipe")
    os.mkfifo("data/pipe.jpg")
    images = ImageSet.from_folder("data")
    used = ["PHOTO.PNG", "photo", "scan.TIF", "small.pgm", "mask.pbm", "x.unknown"]
    bad = {Path(image.path).name: image.reason for image in images.rejected}
    assert bad["pipe.jpg"] == "not a regular file"
    assert bad["empty.jpg"] == "the file is empty"
    assert "raw files of cameras cannot be read" in bad["raw.dng"]
    assert "Photoshop is a format that cannot be read" in bad["layers.psd"]
    assert sorted(Path(path).name for path in images.ignored) == [
        "model.bin",
        "notes",
        "notes.txt",
        "pipe",
    ]
    found = {Path(item.path).name for item in images.items}
    assert found == {*used}
    assert "not an image in a known format" in bad["no.jpg"]
    assert bad["no.jpg"] == bad["no.heic"]
    for name in used:
        assert decode(contents[name]).ndim == 3


def test_unknown_formats_are_named():
    for data, reason in OTHERS.values():
        with pytest.raises(BadImageError, match=reason):
            decode(data)


def test_files_that_only_look_like_images_are_listed_with_the_true_reason(bottleneck):
    """Whatever their names say; those with endings of other formats without a look at the rest."""
    for label in ("cat", "dog"):
        Path("data", label).mkdir(parents=True)
        for number in range(3):
            noise().rotate(number + 5 * (label == "cat")).save(f"data/{label}/{number}.png")
    reasons = {}
    for name, (data, reason) in OTHERS.items():
        Path(f"data/cat/{name}.jpg").write_bytes(data)
        reasons[f"{name}.jpg"] = reason
    for ending, name in NAMED.items():
        Path(f"data/cat/named{ending}").write_bytes(b"\x07 something else")
        reasons[f"named{ending}"] = f"{name} is a format that cannot be read; convert it to PNG or"
    Path("data/cat/photo.ico").write_bytes(encoded("PNG"))  # it is what it is
    Path("data/cat/none.svg").write_bytes(b"")
    done = bottleneck("extract", *TINY, "--json")
    assert done.code == 1, done.err
    content = json.loads(done.out)
    found = {Path(each["path"]).name: each["reason"] for each in content["rejected"]}
    assert found.pop("none.svg") == "the file is empty"
    assert found.keys() == reasons.keys()
    assert all(reasons[name] in reason for name, reason in found.items()), found
    assert content["images"] == 7


OTHERS = {
    "layers": (b"8BPS" + bytes(30), "Photoshop is a format that cannot be read; convert it to PNG"),
    "scan": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(30), "JPEG 2000 is a format that cannot be read"),
    "icon": (b"\0\0\1\0\1\0\x10\x10" + bytes(30), "ICO is a format that cannot be read"),
    "drawing": (b'<?xml version="1.0"?>\n<!-- x -->\n<svg width="1">', "SVG is a format that"),
    "volume": (bytes(128) + b"DICM" + bytes(30), "DICOM is a format that cannot be read"),
    "light": (b"#?RADIANCE\n" + bytes(30), "Radiance HDR is a format that cannot be read"),
    "page": (b"\n<!DOCTYPE html><html>404", "a web page, not an image; download the image again"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "run 'git lfs pull'"),
    "cut": (bytes(300), "zeros where an image begins; copy or download it again"),
    "film": (b"\0\0\0\x20ftypisom" + bytes(30), "a video, not an image; save its frames as images"),
    "pack": (b"PK\3\4" + bytes(30), "an archive, not an image; unpack it"),
    "paper": (b"%PDF-1.7" + bytes(30), "PDF is a format that cannot be read"),
    "words": (b"hello", "not an image in a known format; convert it to PNG, or remove it"),
}
NAMED = {".ICO": "ICO", ".svg": "SVG", ".tga": "Targa", ".exr": "OpenEXR", ".psb": "Photoshop"}


def test_heic_needs_its_extra(monkeypatch):
    data = bytes([0, 0, 0, 24]) + b"ftypheic" + bytes(40)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(BadImageError, match="reading HEIC needs pillow-heif, .*'pip install "):
        decode(data)
    assert {".heic", ".heif", ".avif", ".ppm", ".pgm", ".pbm"} <= IMAGE_SUFFIXES


def test_sizes_are_looked_at_first():
    """A file of 9 GB is never read."""
    with Path("huge.png").open("wb") as file:
        file.write(encoded("PNG"))
        file.truncate(9 * 10**9)
    with pytest.raises(BadImageError, match=r"9,000,000,000 bytes, .*; raise it with `max_bytes`"):
        digests_of_file(Path("huge.png"))
    images = ImageSet.from_paths(["huge.png"])
    assert [image.path for image in images.rejected] == ["huge.png"]
    Path("small.png").write_bytes(encoded("PNG"))
    assert ImageSet.from_paths(["small.png"], max_bytes=100).rejected
    assert not ImageSet.from_paths(["small.png"]).rejected


@pytest.mark.parametrize("path", ["/proc/kmsg", "/proc/self/mem", "/proc/kcore", "/dev/zero", "."])
def test_special_files_are_not_read(path):
    if Path(path).exists():
        (bad,) = ImageSet.from_paths([Path(path)]).rejected if path != "." else [None]
        if bad:
            expected = ("not a regular file", "MB", "permitted", "denied")
            assert any(each in bad.reason for each in expected), bad
        assert not is_image(Path(path))


DEEP = {
    # What earlier versions read otherwise, and what they read rightly.
    "stated.png": (deep_png(low(12), 12), True),
    "plain.png": (deep_png(low(16)), False),
    "eight.png": (encoded("PNG"), False),
    "photo.jpg": (encoded("JPEG"), False),
    "inverted.tif": (seeds()["inverted"], True),
    "scan.tif": (encoded("TIFF", compression="tiff_lzw"), False),
}


def test_the_digest_of_files_read_otherwise_differs():
    for name, (data, otherwise) in DEEP.items():
        Path(name).write_bytes(data)
        plain = hashlib.sha256(data).hexdigest()
        assert (digest_of(data) != plain) == otherwise, name
        assert digests_of_file(Path(name)) == (digest_of(data), plain)


def test_rows_of_an_older_cache_serve_only_images_that_are_read_as_before(little, monkeypatch):
    """Its digests are those of the bytes alone; only the two files concerned are computed anew."""
    Path("data").mkdir()
    for name, (data, _) in DEEP.items():
        Path("data", name).write_bytes(data)
    base = FrozenBase(little, ["first"], weights="random", pool="avg")
    with monkeypatch.context() as older:
        older.setattr("bottleneck.images.items._has_changed", lambda _: False)
        before = extract_features("data", base, "cache")
    assert before.computed == len(DEEP)
    stored = ImageSet.read_csv("cache/sets/data.csv")
    assert all(item.digest in file_digests() for item in stored.items)
    bank = Cache("cache").named(before.layers[0].bank)
    old = bank.read("first", [item.digest for item in stored.items])

    images = ImageSet.from_folder("data")
    assert replacement_of(Path("cache/sets/data.csv"), images).gone == 0
    after = extract_features(images, base, "cache")
    assert (after.computed, after.cached) == (2, 4)
    assert after.layers[0].bank == before.layers[0].bank
    again = extract_features("data", base, "cache")
    assert (again.computed, again.cached) == (0, 6)
    # An older head still finds its own rows.
    assert np.array_equal(old, bank.read("first", [item.digest for item in stored.items]))


def test_splits_and_images_seen_do_not_depend_on_the_version_of_decoding(little, monkeypatch):
    """Also those that an older head and an older model have seen, or a newer one of older rows."""
    for label, bits in (("a", 12), ("b", 10)):
        Path("data", label).mkdir(parents=True)
        for number in range(12):
            data = deep_png(low(bits) * (number + 1) // 12, bits)
            Path(f"data/{label}/{number}.png").write_bytes(data)
    base = FrozenBase(little, ["first"], weights="random", pool="avg")
    found, splits, digests = {}, {}, {}
    for version in ("older", "newer"):
        with monkeypatch.context() as patch:
            if version == "older":
                patch.setattr("bottleneck.images.items._has_changed", lambda _: False)
            extract_features("data", base, version)
            features = load_features(version)
            fit_head(features, "centroid").save(f"{version}-head")
        found[version] = features
        splits[version] = {item.path: item.split for item in features.images.items}
        digests[version] = {item.path: item.digest for item in features.images.items}
    assert splits["older"] == splits["newer"]
    assert digests["older"].items().isdisjoint(digests["newer"].items())
    again = ImageSet.read_csv("newer/sets/data.csv").with_splits().items
    assert {item.path: item.split for item in again} == splits["newer"]

    test = {path for path, split in splits["older"].items() if split == "test"}
    for version, other in (("older", "newer"), ("newer", "older")):
        head = Head.load(f"{version}-head")
        features = features_of(head.source, other, seen=head.seen)
        assert {*features.paths} == test
        seen = same_images(digests[other].values(), head.seen)
        assert {path for path, each in digests[other].items() if each not in seen} == test
    assert not same_images(["ab" * 32], head.seen)


def plain_digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_digests() -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in Path("data").iterdir()}


def test_a_file_with_an_older_digest_says_so(little):
    Path("a.tif").write_bytes(DEEP["inverted.tif"][0])
    (item,) = ImageSet.from_paths(["a.tif"]).items
    older = ImageSet("a", (item.__class__("a.tif", plain_digest(DEEP["inverted.tif"][0])),))
    base = FrozenBase(little, ["first"], weights="random", pool="avg")
    with pytest.raises(DataError, match="an earlier version read other pixels from it; extract"):
        extract_features(older, base, "cache")


def test_imported_rows_belong_to_files_that_were_read_otherwise():
    """Whether their table gives no digest, or the SHA-256 of the bytes."""
    data = DEEP["inverted.tif"][0]
    Path("a.tif").write_bytes(data)
    Path("b.png").write_bytes(DEEP["eight.png"][0])
    np.save("rows.npy", np.ones((2, 3), np.float32))
    expected = [item.digest for item in ImageSet.from_paths(["a.tif", "b.png"]).items]
    for digest in ("", plain_digest(data), digest_of(data)):
        table = f"path,label,split,digest\na.tif,a,train,{digest}\nb.png,b,train,\n"
        Path("rows.csv").write_text(table)
        import_array(Cache(f"cache{digest}"), "rows.npy", "rows.csv", model="m")
        stored = ImageSet.read_csv(f"cache{digest}/sets/rows.csv")
        assert [item.digest for item in stored.items] == expected
    Path("rows.csv").write_text(table.replace(digest, "0" * 64))
    with pytest.raises(UsageError, match="expected the SHA-256"):
        import_array(Cache("cache"), "rows.npy", "rows.csv", model="m")


def test_a_range_is_a_part_of_the_transform_and_a_limit_is_not(little):
    options = {"weights": "random", "pool": "avg"}
    plain = FrozenBase(little, ["first"], **options)
    ranged = FrozenBase(little, ["first"], max_value=4095, **options)
    limited = FrozenBase(little, ["first"], max_pixels=100, **options)
    assert "max_value" not in plain.provenance("first", "float16")["transform"]
    assert ranged.provenance("first", "float16")["transform"]["max_value"] == 4095
    assert limited.fingerprint("first") == plain.fingerprint("first")
    assert ranged.fingerprint("first") != plain.fingerprint("first")
    assert ranged.adjustments["max_value"] == 4095
    assert limited.adjustments["max_pixels"] == 100


def test_extract_tells_of_dark_images_and_pages(bottleneck):
    """The note names the option; with it, the features are those of the scaled images."""
    for label in ("a", "b"):
        Path("data", label).mkdir(parents=True)
        for number in range(3):
            samples = np.roll(low(12), number + 7 * (label == "b"), axis=1)
            Path("data", label, f"{number}.png").write_bytes(deep_png(samples))
    pages = encoded("TIFF", noise(), save_all=True, append_images=[noise().rotate(180)])
    Path("data/a/pages.tif").write_bytes(pages)
    finished = bottleneck("extract", *TINY)
    assert finished.code == 0
    assert "6 images of 16 bits below 4,096 of 65,535, with no range stated" in finished.err
    assert "if 4095 is white, give --max-value 4095" in finished.err
    assert "1 file has several pages or frames" in finished.err
    scaled = bottleneck("extract", *TINY, "--max-value", "4095", "--json")
    assert "of 16 bits" not in scaled.err
    record = json.loads(scaled.out)
    assert record["adjustments"]["max_value"] == 4095
    assert record["several_pages"] == ["data/a/pages.tif"]
    limited = bottleneck("extract", *TINY, "--max-pixels", "650", "--cache", "other")
    assert limited.code == 1
    assert "more than the limit of 650; raise it with --max-pixels" in limited.err
    limited = bottleneck("extract", *TINY, "--max-bytes", "1kB")
    assert limited.code == 1
    assert "bytes, more than the limit of 1,000; raise it with --max-bytes" in limited.err
