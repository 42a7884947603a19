"""Device nodes in folder trees: which exist, and who may open them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from edge.hardware.device_nodes import list_nodes, summarize, try_open
from tests.support.machines import ORIN_NODES, write_orin
from tests.support.sensor_trees import write_tree


def _refuse(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, os.strerror(errno.EACCES))


def test_nodes_of_an_orin_are_listed_with_group_and_mode(tmp_path: Path) -> None:
    nodes = list_nodes(write_orin(tmp_path), lambda path: "")
    assert {node.name for node in nodes} == set(ORIN_NODES)
    assert {(node.group, node.mode) for node in nodes} == {("render", 0o660)}
    assert not any(node.is_refused for node in nodes)


def test_refused_node_is_told_from_a_broken_one(tmp_path: Path) -> None:
    errors = {**_refuse("renderD128"), "nvmap": os.strerror(errno.ENODEV)}
    nodes = list_nodes(write_orin(tmp_path), lambda path: errors.get(path.name, ""))
    assert [node.name for node in nodes if node.is_refused] == ["dri/renderD128"]
    assert [node.name for node in nodes if node.error and not node.is_refused] == ["nvmap"]


def test_user_of_the_service_is_refused_without_the_group(tmp_path: Path) -> None:
    nodes = list_nodes(write_orin(tmp_path), lambda path: "")
    assert all(node.service_refused for node in nodes)


def test_group_in_the_unit_lets_the_user_of_the_service_in(tmp_path: Path) -> None:
    unit = "[Service]\nUser=aerogaze\nSupplementaryGroups=video render\n"
    write_tree(write_orin(tmp_path), {"etc/systemd/system/aerogaze.service": unit})
    assert not any(node.service_refused for node in list_nodes(tmp_path, lambda path: ""))


def test_node_that_everybody_may_open_is_open_to_the_service(tmp_path: Path) -> None:
    nodes = list_nodes(write_orin(tmp_path, mode=0o666), lambda path: "")
    assert not any(node.service_refused for node in nodes)


def test_machine_without_nodes_has_none(tmp_path: Path) -> None:
    assert list_nodes(tmp_path) == []


def test_try_open_returns_the_error(tmp_path: Path) -> None:
    (tmp_path / "node").touch()
    assert try_open(tmp_path / "node") == ""
    assert try_open(tmp_path / "missing") == os.strerror(errno.ENOENT)


def test_nodes_of_one_family_are_one_entry() -> None:
    assert summarize(["nvmap", "nvhost-gpu", "nvhost-ctrl", "nvgpu/igpu0/a", "nvgpu/igpu0/b"]) == (
        "nvmap, nvhost* (2), nvgpu/* (2)"
    )
