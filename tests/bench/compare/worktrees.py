"""Git worktrees of commits in a temporary folder."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edge.core.errors import InputError

ROOT = Path(__file__).parents[3]


class Checkout(NamedTuple):
    """A commit that is checked out.

    Attributes:
        commit: Its hash.
        name: Short hash, and the name it was asked for by.
        folder: The worktree.
    """

    commit: str
    name: str
    folder: Path


@contextmanager
def check_out(names: Sequence[str], root: Path = ROOT) -> Iterator[list[Checkout]]:
    """Check commits out, each into a worktree of its own; remove all of them at the end, however it comes.

    Raises:
        InputError: A commit is unknown, or git is missing or fails.
    """
    commits = [resolve_commit(name, root) for name in names]
    with tempfile.TemporaryDirectory(prefix="aerogaze-bench-") as temporary:
        checkouts = []
        try:
            for index, (name, commit) in enumerate(zip(names, commits, strict=True)):
                folder = Path(temporary) / f"{index}-{commit[:10]}"
                checkouts.append(Checkout(commit, _describe(name, commit), folder))
                _git(root, "worktree", "add", "--quiet", "--detach", str(folder), commit)
            yield checkouts
        finally:
            for checkout in checkouts:
                shutil.rmtree(checkout.folder, ignore_errors=True)
            _git(root, "worktree", "prune")


def resolve_commit(name: str, root: Path = ROOT) -> str:
    """Return the hash of a commit.

    Raises:
        InputError: There is no such commit.
    """
    try:
        return _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except InputError:
        raise InputError(
            f"{name} is no commit; expected a hash, branch or tag, as `git log --oneline` shows them"
        ) from None


def uncommitted_files(root: Path = ROOT) -> list[str]:
    """Return the tracked files with changes that are in no commit."""
    lines = _git(root, "status", "--porcelain", "--untracked-files=no").splitlines()
    return [line.split(maxsplit=1)[1] for line in lines]


def _describe(name: str, commit: str) -> str:
    return commit[:10] if commit.startswith(name) else f"{commit[:10]} ({name})"


def _git(root: Path, *words: str) -> str:
    """Run git and return its output.

    Raises:
        InputError: Git is missing or fails.
    """
    try:
        process = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)  # noqa: S607
    except OSError as error:
        raise InputError(f"git cannot be started ({error}): install it") from None
    if process.returncode:
        reason = process.stderr.strip().splitlines()
        raise InputError(f"git {words[0]} failed: {reason[-1] if reason else process.returncode}")
    return process.stdout.strip()
