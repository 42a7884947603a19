"""Writer of the lists of wheels, with hashes, that the boards of each JetPack get.

Run `python -m jetson.wheels.lock` after a change of constraints.txt or of the dependencies, with
access to a package index.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from jetson.wheels.resolve import lock_file, resolve_wheels
from jetson.wheels.target_platform import JETPACKS, parse_platform
from jetson.wheels.wheel_set import requirement_lines, write_own_wheel


def main() -> None:
    """Write the list of each JetPack."""
    for jetpack in JETPACKS:
        platform = parse_platform(jetpack)
        with tempfile.TemporaryDirectory() as folder:
            resolve_wheels(write_own_wheel(Path(folder)), platform, Path(folder))
            lock_file(platform).write_text(requirement_lines(Path(folder).glob("*.whl")))
        print(f"wrote {lock_file(platform)}")


if __name__ == "__main__":
    main()
