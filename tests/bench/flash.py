"""Time that flashing a bundle of 5 MB over SSH to a board on loopback adds to the trial of its engines."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from edge.release.manifest import locate_release
from jetson.bundle.archive import BundleMetadata, write_bundle
from jetson.signing.keys import generate_key
from tests.bench.rows import BenchRow, print_note
from tests.support.fleets import aerogaze_command
from tests.support.sshd import SFTP_SERVER, SSHD, run_sshd

BUNDLE_BYTES = 5_000_000
ROUNDS = 3


def flash_rows(folder: Path) -> Iterator[BenchRow]:
    """Yield the seconds of a flash before and after the trial; nothing where sshd is missing."""
    if SSHD is None or SFTP_SERVER is None:
        print_note("flashing is not measured: there is no sshd (apt-get install openssh-server)")
        return
    key, server_folder, padding = generate_key(folder / "k"), folder / "sshd", folder / "padding.cache"
    server_folder.mkdir()
    release = locate_release(Path("skd-128"))
    release_bytes = sum(path.stat().st_size for path in release.iterdir() if path.is_file())
    padding.write_bytes(os.urandom(BUNDLE_BYTES - release_bytes))
    seconds = []
    with run_sshd(server_folder) as server:
        words = [*server.flash_arguments(), "--root", str(folder / "drone"), "--trust", str(folder / "k.pub")]
        for counter in range(1, ROUNDS + 1):
            bundle = folder / f"{counter}.swu"
            write_bundle(release, [key], BundleMetadata(counter=counter, timing_caches=(padding,)), bundle)
            seconds.append(flash_seconds_without_trial(aerogaze_command("flash", bundle, *words)))
    label = f"flash of {BUNDLE_BYTES / 1e6:g} MB over SSH, without the trial of its engines"
    yield BenchRow(label, sorted(seconds)[ROUNDS // 2], "s", 5, at_least=False)


def flash_seconds_without_trial(words: list[str]) -> float:
    """Return the seconds of a flash without those between its first `trying` and its choice."""
    start_s, trial_start_s, trial_end_s = time.monotonic(), 0.0, 0.0
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("trying") and not trial_start_s:
                trial_start_s = time.monotonic()
            if re.match(r"(fp32|fp16|int8): ", line):
                trial_end_s = time.monotonic()
    seconds = time.monotonic() - start_s
    assert process.returncode == 0, "".join(lines)
    assert 0 < trial_start_s < trial_end_s
    trial_s = trial_end_s - trial_start_s
    print_note(f"a flash took {seconds:.1f} s, {trial_s:.1f} s of it for the trial")
    return seconds - trial_s
