"""Preprocessing as an ONNX graph: resize as Pillow does, crop the centre, normalise.

The graph is written in ONNX's own textual syntax.
"""

from typing import Any

from bottleneck.bases import Transform
from bottleneck.errors import UsageError

__all__ = ["FIRST_OPSET", "check_transform", "preprocessing_graph"]

FIRST_OPSET = 18
"""The first with antialiased resizing, and the first that PyTorch writes."""
_MODES = {
    "bilinear": 'mode = "linear", antialias = 1',
    # Pillow's cubic; ONNX's own value is that of OpenCV.
    "bicubic": 'mode = "cubic", antialias = 1, cubic_coeff_a = -0.5',
    "nearest": 'mode = "nearest", nearest_mode = "round_prefer_ceil"',
}


def check_transform(transform: Any) -> None:
    """Refuse an interpolation that ONNX does not have.

    Parameters
    ----------
    transform : Transform
        The preprocessing.

    Raises
    ------
    UsageError
        ONNX cannot express it.
    """
    if transform.interpolation not in _MODES:
        raise UsageError(
            f"ONNX cannot resize by {transform.interpolation}, only by {', '.join(_MODES)}; leave "
            f"`with_preprocessing` out, or extract with `interpolation=bicubic` and fit the head "
            f"again"
        )


def preprocessing_graph(transform: Transform, opset: int, ir_version: int) -> Any:
    """Return the graph from images to pixels.

    Parameters
    ----------
    transform : Transform
        The preprocessing.
    opset, ir_version : int
        Versions of ONNX.

    Returns
    -------
    onnx.ModelProto
        Maps ``images``, uint8 of shape (n, height, width, 3), to ``pixels``, float32 of shape
        (n, 3, height, width).
    """
    from onnx import parser

    height, width = ("rows", "columns") if transform.keep_aspect else transform.crop
    sized = _SQUASHED if transform.squash else _COVERING
    if transform.multiple:
        sized = sized.replace("new_", "old_") + _MULTIPLES
    cropped = _WHOLE if transform.keep_aspect else _CROPPED
    values = {
        "box_height": transform.resize[0],
        "box_width": transform.resize[1],
        "height": transform.crop[0],
        "width": transform.crop[1],
        "step": transform.multiple,
        "half": (transform.multiple or 0) // 2,
    }
    return parser.parse_model(f"""
    <ir_version: {ir_version}, opset_import: ["": {opset}]>
    preprocessing (uint8[n, h, w, 3] images) => (float[n, 3, {height}, {width}] pixels)
    <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}},
     float white = {{255.0}}, float[1, 3, 1, 1] mean = {{{_numbers(transform.mean)}}},
     float[1, 3, 1, 1] std = {{{_numbers(transform.std)}}}>
    {{
        channels = Transpose <perm = [0, 3, 1, 2]> (images)
        shape = Shape (images)
        count = Slice (shape, zero, one)
        image_h = Slice (shape, one, two)
        image_w = Slice (shape, two, three)
        {sized.format(**values)}
        size = Concat <axis = 0> (count, three, new_h, new_w)
        resized = Resize <{_MODES[transform.interpolation]},
            coordinate_transformation_mode = "half_pixel"> (channels, , , size)
        {cropped.format(**values)}
        values = Cast <to = 1> (cropped)
        shares = Div (values, white)
        centred = Sub (shares, mean)
        pixels = Div (centred, std)
    }}
    """)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{each:.9g}" if each % 1 else f"{each:.1f}" for each in values)


_SQUASHED = """
        new_h = Constant <value_ints = [{box_height}]> ()
        new_w = Constant <value_ints = [{box_width}]> ()
"""
_COVERING = """
        box_h = Constant <value_ints = [{box_height}]> ()
        box_w = Constant <value_ints = [{box_width}]> ()
        taller = Mul (image_h, box_w)
        wider = Mul (image_w, box_h)
        is_wide = Less (taller, wider)
        tall_h = Div (taller, image_w)
        wide_w = Div (wider, image_h)
        new_h = Where (is_wide, box_h, tall_h)
        new_w = Where (is_wide, wide_w, box_w)
"""
_MULTIPLES = """
        half = Constant <value_ints = [{half}]> ()
        step = Constant <value_ints = [{step}]> ()
        above_h = Add (old_h, half)
        above_w = Add (old_w, half)
        steps_h = Div (above_h, step)
        steps_w = Div (above_w, step)
        some_h = Mul (steps_h, step)
        some_w = Mul (steps_w, step)
        new_h = Max (some_h, step)
        new_w = Max (some_w, step)
"""
_WHOLE = """
        cropped = Identity (resized)
"""
# As torchvision's `center_crop`: a smaller image is padded with black; halves are rounded to even.
_CROPPED = """
        crop = Constant <value_ints = [{height}, {width}]> ()
        sides = Constant <value_ints = [2, 3]> ()
        none = Constant <value_ints = [0, 0]> ()
        twos = Constant <value_ints = [2, 2]> ()
        black = Cast <to = 2> (zero)
        now = Shape <start = 2, end = 4> (resized)
        lacking = Sub (crop, now)
        missing = Max (lacking, none)
        before = Div (missing, twos)
        after = Sub (missing, before)
        pads = Concat <axis = 0> (zero, zero, before, zero, zero, after)
        black_scalar = Squeeze (black)
        padded = Pad (resized, pads, black_scalar)
        full = Shape <start = 2, end = 4> (padded)
        over = Sub (full, crop)
        exact = Cast <to = 1> (over)
        by_two = Constant <value_float = 0.5> ()
        middle = Mul (exact, by_two)
        rounded = Round (middle)
        first = Cast <to = 7> (rounded)
        last = Add (first, crop)
        cropped = Slice (padded, first, last, sides)
"""
