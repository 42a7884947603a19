"""A bundle of 5 MB over SSH to a board on loopback: what flashing adds to the trial of its engines there."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

from edge.release.manifest import locate_release
from jetson.bundle.archive import BundleMetadata, write_bundle
from jetson.signing.keys import generate_key
from tests.bench.rows import Row
from tests.support.fleets import command
from tests.support.sshd import SFTP, SSHD, sshd

SIZE = 5_000_000
ROUNDS = 3


def flash_rows(folder: Path) -> list[Row]:
    """The seconds of a flash before the trial and after it; none where sshd is missing."""
    if SSHD is None or SFTP is None:
        print("no sshd here (apt-get install openssh-server): flashing is not measured")
        return []
    key, here, padding = generate_key(folder / "k"), folder / "sshd", folder / "padding.cache"
    here.mkdir()
    release = locate_release(Path("skd-128"))
    padding.write_bytes(os.urandom(SIZE - sum(p.stat().st_size for p in release.iterdir() if p.is_file())))
    found = []
    with sshd(here) as server:
        words = [*server.words(), "--root", str(folder / "drone"), "--trust", str(folder / "k.pub")]
        for counter in range(1, ROUNDS + 1):
            bundle = folder / f"{counter}.swu"
            write_bundle(release, [key], BundleMetadata(counter=counter, timing_caches=(padding,)), bundle)
            found.append(_beside(command("flash", bundle, *words)))
    seconds = sorted(found)[ROUNDS // 2]
    what = f"flash of {SIZE / 1e6:g} MB over SSH, less the trial of its engines"
    return [Row(what, seconds, "s", 5, at_least=False)]


def _beside(words: list[str]) -> float:
    """Return the seconds of a flash less those between the first `trying` and what was chosen."""
    started, trying, chosen = time.monotonic(), 0.0, 0.0
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("trying") and not trying:
                trying = time.monotonic()
            if re.match(r"(fp32|fp16|int8): ", line):
                chosen = time.monotonic()
    whole = time.monotonic() - started
    assert process.returncode == 0, "".join(said)
    assert 0 < trying < chosen
    print(f"a flash took {whole:.1f} s, {chosen - trying:.1f} s of it the trial")
    return whole - (chosen - trying)
