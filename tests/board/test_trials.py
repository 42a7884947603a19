"""Trials under a real systemd: the install and the service in its sandbox agree on the slot that flies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.board_images import BoardImages, flash
from tests.support.power_cuts import check_flown
from tests.support.virtual_board import Desk, service_state

pytestmark = pytest.mark.long
OTHER_BOOT_ID = """
cat /proc/sys/kernel/random/uuid > /run/other-boot-id
mkdir -p /run/systemd/system/aerogaze.service.d
printf '[Service]\\nBindReadOnlyPaths=/run/other-boot-id:/proc/sys/kernel/random/boot_id\\n' \\
    > /run/systemd/system/aerogaze.service.d/boot-id.conf
systemctl daemon-reload
"""
"""Makes the service see another boot id, as in a container."""


def test_sandbox_with_another_boot_id_flies_the_trial_and_shows_it_to_the_install(
    flown_disk: Path, desk: Desk, images: BoardImages, bundles: Callable[[int], Path]
) -> None:
    with desk.board(desk.clone(flown_disk, "boot-id.img")) as board:
        board.start()
        board.script(OTHER_BOOT_ID)
        assert "not verified" not in flash(images, board, bundles(2))
        assert check_flown(board, {2}) == 2
        (process,) = service_state(board, "MainPID")
        seen = board.script(f"nsenter -t {process} -m cat /proc/sys/kernel/random/boot_id")
        assert seen == board.script("cat /run/other-boot-id")
        assert "/slots/b/release" in board.script(f"tr '\\0' ' ' < /proc/{process}/cmdline")
