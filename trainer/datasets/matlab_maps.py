"""Fixation maps as MATLAB files, the way DHF1K keeps them in `fixation/maps/`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError

KEY = "I"


def list_mat_files(folder: Path) -> dict[str, Path]:
    """Return the folder's .mat files by stem; none where there is no folder."""
    return {path.stem: path for path in folder.glob("*.mat") if path.name[0] != "."}


def read_mat_file(path: Path) -> NDArray[np.uint8]:
    """Return the matrix `I` of a .mat file up to version 7, (H, W): 255 where it is not zero.

    Raises:
        ValueError: not to be read, and why, in a few words.
        InputError: SciPy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        raise InputError(
            f"{path} needs scipy, which is not installed: pip install 'aerogaze[train]'"
        ) from None
    try:
        found = loadmat(path, variable_names=[KEY]).get(KEY)
    except NotImplementedError:
        raise ValueError("of MATLAB 7.3 (HDF5), which is not read: save it with -v7, or as PNG") from None
    except Exception:  # whatever SciPy meets in a file that is damaged
        raise ValueError("not readable as a .mat file") from None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind not in "buif":
        raise ValueError(f"has no matrix of numbers named {KEY}")
    return np.where(found != 0, 255, 0).astype(np.uint8)
