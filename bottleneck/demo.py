"""The demo images: photographs from scikit-image, as a labelled image folder."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from bottleneck.errors import UsageError
from bottleneck.extras import import_extra
from bottleneck.files import atomic_write
from bottleneck.inputs import read_regular

__all__ = ["DEMO_CLASSES", "write_demo_images"]

DEMO_CLASSES = ("face", "no_face")
_IMAGES_PER_CLASS = 100


def write_demo_images(folder: str | Path) -> int:
    """Write 200 small photographs as PNG files into two class folders.

    They are scikit-image's ``lfw_subset``: 100 faces and 100 other crops of Labeled Faces in the
    Wild (Huang et al. 2007), 25 x 25 grey pixels each.

    Parameters
    ----------
    folder : str or Path
        Must be absent, empty, or written by this function before.

    Returns
    -------
    int
        Number of files written: 0 if they all exist already.

    Raises
    ------
    UsageError
        The folder contains other files.
    MissingExtraError
        scikit-image is not installed.
    """
    lfw_subset = import_extra("skimage.data", "the demo", "scikit-image").lfw_subset
    root = Path(folder)
    photographs: np.ndarray = np.round(lfw_subset() * 255).astype(np.uint8)
    names = [f"{label}/{n:03d}.png" for label in DEMO_CLASSES for n in range(_IMAGES_PER_CLASS)]
    files = dict(zip((root / name for name in names), photographs, strict=True))
    written = {path for path, pixels in files.items() if path.exists() and _shows(path, pixels)}
    present = (each for each in root.rglob("[!.]*") if not each.is_dir())
    if strange := [each for each in present if each not in written]:
        raise UsageError(
            f"folder {str(root)!r} contains other files, such as {str(strange[0])!r}; give the "
            f"demo an empty folder with `data`"
        )
    for path in files.keys() - written:
        content = io.BytesIO()
        Image.fromarray(files[path]).save(content, "PNG")
        atomic_write(path, content.getvalue())
    return len(files) - len(written)


def _shows(path: Path, pixels: np.ndarray) -> bool:
    """Return whether a file is an image of these pixels, whatever version encoded it."""
    try:
        with Image.open(io.BytesIO(read_regular(path))) as image:
            return np.array_equal(np.asarray(image), pixels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
