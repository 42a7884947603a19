from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from edge.gpu import Board, this_board, this_gpu

MODEL = "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
L4T = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
PACKAGES = "Package: zlib\nVersion: 1.3\n\nPackage: nvidia-jetpack\nStatus: install ok\nVersion: 6.2+b77\n\n"


@pytest.mark.parametrize(
    ("files", "board"),
    [
        ({}, None),
        ({"proc/device-tree/model": "Raspberry Pi 5\0"}, None),
        ({"proc/device-tree/model": MODEL + "\0"}, Board(MODEL, None)),
        ({"proc/device-tree/model": MODEL, "etc/nv_tegra_release": L4T}, Board(MODEL, "L4T 36.4.3")),
        (
            {"proc/device-tree/model": MODEL, "etc/nv_tegra_release": L4T, "var/lib/dpkg/status": PACKAGES},
            Board(MODEL, "6.2+b77"),
        ),
    ],
    ids=["nothing", "another", "bare", "L4T", "JetPack"],
)
def test_a_board_is_known_by_its_files(tmp_path: Path, files: dict[str, str], board: Board | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert this_board(tmp_path) == board


def test_a_machine_without_a_driver_has_no_gpu() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert this_gpu() is None
    else:
        pytest.skip("there is a CUDA driver")
