from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from edge.hardware.board import JETSON_MODULES, find_jetson_module, read_board_facts
from tests.conftest import Outcome

NEEDS_JETSON_EXTRA = pytest.mark.skipif(
    find_spec("cryptography") is None,
    reason="the extra [jetson] is not installed: pip install 'aerogaze[jetson]'",
)
NVPMODEL = """< PARAM TYPE=FILE NAME=CPU_ONLINE >
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< PM_CONFIG DEFAULT=1 >
"""


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    """Return a root with the files of an Orin Nano with JetPack 6.2, as NVIDIA documents them."""
    for name, text in {
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
        "etc/nvpmodel.conf": NVPMODEL,
        "var/lib/nvpmodel/status": "pmode:0002",
        "var/lib/dpkg/status": "Package: zsh\nVersion: 9\n\nPackage: libnvinfer10\nVersion: 10.3.0.30-1\n\n",
    }.items():
        (tmp_path / "jetson" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "jetson" / name).write_text(text)
    return tmp_path / "jetson"


def test_board_facts_are_read_from_jetson_files(orin: Path) -> None:
    facts = read_board_facts(orin)
    assert (facts.board, facts.compute_capability) == ("orin-nano", "8.7")
    assert (facts.l4t, facts.jetpack, facts.tensorrt) == ("36.4.3", "6.2", "10.3.0.30")
    assert (facts.power_mode, facts.power_modes) == ("2", {"0": "15W", "2": "MAXN_SUPER"})


def test_jetpack_package_overrides_table(orin: Path) -> None:
    status = orin / "var/lib/dpkg/status"
    package = "Package: nvidia-jetpack\nStatus: install ok\nVersion: 6.9+b77\n\n"
    status.write_text(package + status.read_text())
    facts = read_board_facts(orin)
    assert (facts.jetpack, facts.jetpack_or_l4t, facts.power_mode_name) == ("6.9", "6.9", "MAXN_SUPER")


def test_unknown_l4t_is_reported_without_jetpack(orin: Path) -> None:
    (orin / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 9.9, GCID: 1\n")
    facts = read_board_facts(orin)
    assert (facts.jetpack, facts.jetpack_or_l4t) == (None, "L4T 36.9.9")


@pytest.mark.parametrize("revision", ["2", "2.0"])
def test_jetpack_is_found_with_and_without_trailing_zeros(orin: Path, revision: str) -> None:
    (orin / "etc/nv_tegra_release").write_text(f"# R38 (release), REVISION: {revision}, GCID: 1\n")
    assert read_board_facts(orin).jetpack == "7.0"
    (orin / "etc/nv_tegra_release").write_text("# R38 (release), REVISION: 20, GCID: 1\n")
    assert read_board_facts(orin).jetpack is None


@NEEDS_JETSON_EXTRA
def test_device_status_reports_board(command: Callable[..., Outcome], orin: Path, tmp_path: Path) -> None:
    (tmp_path / "drone").mkdir()
    words = ["device", "status", "--root", tmp_path / "drone", "--facts", orin]
    text = command(*words).out
    for expected in (
        "Orin Nano", "compute capability 8.7", "JetPack 6.2", "L4T 36.4.3", "TensorRT 10.3.0.30",
        "power mode MAXN_SUPER", "no DLA", "4 or 8 GB of memory",
    ):  # fmt: skip
        assert expected in text
    status = json.loads(command(*words, "--json").out)
    assert status["module"] == {"dla_cores": 0, "memory_gb": [4, 8]}
    assert (status["board"]["l4t"], status["board"]["power_mode"]) == ("36.4.3", "2")
    (orin / "proc/device-tree/model").write_text("NVIDIA Jetson AGX Orin Developer Kit\0")
    assert "at most 2 DLA cores, 32 or 64 GB of memory" in command(*words).out
    words[-1] = tmp_path
    assert "board: not a known Jetson" in command(*words).out
    assert json.loads(command(*words, "--json").out)["module"] is None


def test_board_facts_are_empty_on_other_machines(tmp_path: Path) -> None:
    facts = read_board_facts(tmp_path)
    assert {getattr(facts, name) for name in ("model", "board", "l4t", "jetpack", "tensorrt")} == {None}


@pytest.mark.parametrize(
    ("model", "board"),
    [
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "orin-nx"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "agx-orin"),
        ("NVIDIA Jetson AGX Thor Developer Kit", "agx-thor"),
        ("NVIDIA Jetson Xavier NX Developer Kit", None),
        ("Raspberry Pi 5 Model B", None),
    ],
)
def test_module_is_identified_by_device_tree_model(model: str, board: str | None) -> None:
    module = find_jetson_module(model)
    assert (module.board if module else None) == board


@NEEDS_JETSON_EXTRA
def test_bundle_accepts_every_board_of_the_table() -> None:
    from jetson.bundle.manifest import parse_compatibility

    words = ",".join(module.board for module in JETSON_MODULES)
    assert parse_compatibility((f"boards={words}",)).boards == tuple(
        sorted(module.board for module in JETSON_MODULES)
    )


@NEEDS_JETSON_EXTRA
def test_power_mode_is_set_only_with_confirmation(
    command: Callable[..., Outcome], orin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "nvpmodel"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    refused = command("device", "power", "MAXN_SUPER", "--facts", orin)
    assert refused.code == 2
    assert "confirm with --yes" in refused.err
    unknown = command("device", "power", "60W", "--yes", "--facts", orin)
    assert "this board has 0 (15W), 2 (MAXN_SUPER)" in unknown.err
    assert not (tmp_path / "called").exists()
    assert command("device", "power", "MAXN_SUPER", "--yes", "--facts", orin).code == 0
    assert (tmp_path / "called").read_text() == "-m 2\n"
