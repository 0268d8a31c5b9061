"""Open HDF5 files that may be anything, and datasets that may claim anything."""

from math import prod
from pathlib import Path

import h5py

from bottleneck.inputs import check_regular

__all__ = ["dataset_of", "open_hdf5"]


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, if it is a regular file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    h5py.File

    Raises
    ------
    OSError
        It is no HDF5 file, or cannot be read.
    """
    check_regular(path)
    return h5py.File(path, "r", locking=False)


def dataset_of(file: h5py.File, name: str, *, chunked: bool = False) -> h5py.Dataset:
    """Return a dataset whose values are in this file, as many as it claims.

    Parameters
    ----------
    file : h5py.File
        The opened file.
    name : str
        Path of the dataset.
    chunked : bool
        Whether it may be compressed, in chunks of whole rows.

    Returns
    -------
    h5py.Dataset

    Raises
    ------
    KeyError
        There is none.
    ValueError
        It is something else, its values are elsewhere, or the file is too small for them.
    """
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        inner = "/".join(parts[:depth])
        if file.get(inner, getclass=True, getlink=True) is not h5py.HardLink:
            raise ValueError(f"{inner} is missing or a link")
    data = file[name]
    if getattr(data, "shape", None) is None or data.is_virtual or data.external:
        raise ValueError(f"{name} is not an array in this file")
    size = prod(data.shape) * data.dtype.itemsize
    if data.chunks and not (chunked and data.chunks[1:] == data.shape[1:]):
        raise ValueError(f"{name} is stored in pieces")
    if not data.chunks and size > file.id.get_filesize():
        raise ValueError(f"{name} has the shape {data.shape}, more than the file holds")
    return data
