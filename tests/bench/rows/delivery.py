"""Flash of a bundle of 5 MB over SSH to a board on loopback, and a roll-out to 1,000 boards as folders."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge.release.manifest import locate_release
from jetson.bundle.archive import BundleMetadata, write_bundle
from jetson.signing.keys import generate_key
from tests.bench.measurement.row import Reading, Readings, print_note
from tests.support.boards import copy_release
from tests.support.fleets import aerogaze_command, make_fleet, measure_memory
from tests.support.sshd import SFTP_SERVER, SSHD, run_sshd

BUNDLE_BYTES = 5_000_000
ROUNDS = 3
BOARDS = 1000


def benchmarks() -> Sequence[Readings]:
    """Return the flash."""
    return (Readings("flash", 60, read_flash),)


def fleet_benchmarks() -> Sequence[Readings]:
    """Return the roll-out, which takes minutes."""
    return (Readings("1,000 boards", 600, read_fleet),)


def read_flash(folder: Path) -> Iterator[Reading]:
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
    yield Reading(label, sorted(seconds)[ROUNDS // 2], "s", 5, at_least=False)


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


def read_fleet(folder: Path, count: int = BOARDS) -> Iterator[Reading]:
    """Roll out, of which a twentieth fails; check the outcome of all boards, and yield time and memory.

    The boards install the smallest student in int8. Most of the time of an install is the start of its two
    processes, as on a board; then come the 350 calls of the trial, and fsync.
    """
    release = copy_release(folder / "tiny", "int8", name="skd-32", student=Path("skd-32"))
    words, faults = make_fleet(folder, release, count)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, seconds, peak_mb = measure_memory(aerogaze_command(*words))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    failed = (folder / "report.json").read_text().count('"outcome": "failed"')
    assert (code, failed) == (1, len(faults))
    label = f"a fleet of {count} folders, {failed} failing"
    print_note(f"{label}: {cpu_s / count:.2f} s of CPU time and {seconds / count:.2f} s per board")
    yield Reading(f"{label}: elapsed time", seconds / 60, "min", 10, at_least=False)
    yield Reading(f"{label}: CPU time per core, of two", cpu_s / 60 / 2, "min", at_least=False)
    yield Reading(f"{label}: memory of all processes", peak_mb, "MB", 500, at_least=False)
