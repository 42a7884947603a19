"""Fixation maps in MATLAB files, as DHF1K stores them in `fixation/maps/`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError

MATRIX_NAME = "I"


def list_mat_files(folder: Path) -> dict[str, Path]:
    """Return the .mat files of a folder by stem; empty if there is no folder."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return {path.stem: path for path in paths if path.suffix.lower() == ".mat" and path.name[0] != "."}


def read_mat_file(path: Path) -> NDArray[np.uint8]:
    """Return the matrix `I` (H, W) of a .mat file up to version 7: 255 where it is not zero.

    Raises:
        ValueError: The file cannot be read; the message says why in a few words.
        InputError: SciPy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        raise InputError(
            f"{path} needs scipy, which is not installed: pip install 'aerogaze[train]'"
        ) from None
    try:
        matrix = loadmat(path, variable_names=[MATRIX_NAME]).get(MATRIX_NAME)
    except NotImplementedError:
        raise ValueError("MATLAB 7.3 (HDF5) is not supported: save it with -v7, or as PNG") from None
    except Exception:  # SciPy raises many types for damaged files
        raise ValueError("not readable as a .mat file") from None
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype.kind not in "buif":
        raise ValueError(f"has no matrix of numbers named {MATRIX_NAME}")
    return np.where(matrix != 0, 255, 0).astype(np.uint8)
