"""Builds the wheel and the source archive: the same source and setuptools give the same bytes.

    python .ci/dist.py dist

The files are those that git tracks or would add; times are those of the last commit (or $SOURCE_DATE_EPOCH).
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv*", ".hypothesis", ".*_cache", "out", "build", "dist", "shared", "*.egg-info", "__pycache__"
)
EPOCH_WITHOUT_GIT = "315532800"  # 1980, the first year that a zip archive can hold


def git(*words: str) -> str | None:
    """Return what git prints, or None if there is no git or no repository."""
    command = ["git", "-C", str(ROOT), *words]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def copy_source(folder: Path) -> None:
    """Copy the source files into an empty folder, with permissions that do not depend on the umask."""
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
    if listed is None:
        shutil.copytree(ROOT, folder, ignore=NOT_SOURCE, dirs_exist_ok=True)
    else:
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file() and not name.startswith(
                "shared/"
            ):  # git still lists a file that was removed
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def repack(archive: Path, epoch: int) -> None:
    """Write a source archive again: sorted, with the given time and without an owner."""
    new = archive.with_suffix(".new")
    with (
        tarfile.open(archive) as packed,
        new.open("wb") as raw,
        gzip.GzipFile("", "wb", 9, raw, mtime=epoch) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as out,
    ):
        for member in sorted(packed.getmembers(), key=lambda member: member.name):
            content = packed.extractfile(member) if member.isfile() else None
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.pax_headers = {}
            out.addfile(member, content)
    new.replace(archive)


def main() -> None:
    """Build both archives into the folder of the first argument."""
    os.umask(0o022)  # the wheel keeps the permissions of the files that setuptools writes
    target = Path(sys.argv[1]).resolve()
    epoch = (
        os.environ.get("SOURCE_DATE_EPOCH") or (git("log", "-1", "--format=%ct") or EPOCH_WITHOUT_GIT).strip()
    )
    environment = {**os.environ, "SOURCE_DATE_EPOCH": epoch}
    with tempfile.TemporaryDirectory() as temporary:
        source, built = Path(temporary, "source"), Path(temporary, "dist")
        source.mkdir()
        copy_source(source)
        subprocess.run(
            [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(built), str(source)],
            check=True,
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        (archive,) = built.glob("*.tar.gz")
        repack(archive, int(epoch))
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(built.iterdir()):
            shutil.copyfile(path, target / path.name)
            print(target / path.name)


if __name__ == "__main__":
    main()
