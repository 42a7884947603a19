"""Code blocks of the documentation, as the tests run them."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import click
from markdown_it import MarkdownIt

from edge.cli.main import aerogaze
from tests.support.ports import free_tcp_port

ROOT = Path(__file__).parents[2]
RUN = ("sh", "python")
"""Languages of the blocks that the tests run. A block in another language (`text`, `toml`) is only shown."""
NEEDS, LONG = "Needs ", "Takes minutes"
"""First words of a visible title: the block needs what no test machine has, or it runs with `-m long`."""
PORT = "8080"
"""Port of the live page in all pages. A free one takes its place, because another program may use it."""


@dataclass(frozen=True)
class Block:
    """One fenced code block of a page.

    Attributes:
        page: The page's file.
        line: Line of the opening fence, from 1.
        language: First word of the fence, for example `sh`.
        title: The visible title of the block; empty without one.
        code: Its text.
    """

    page: Path
    line: int
    language: str
    title: str
    code: str

    @property
    def is_run(self) -> bool:
        """Say whether a test runs the block."""
        return self.language in RUN and not self.title.startswith(NEEDS)

    @property
    def place(self) -> str:
        """Return the page and the line, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_long(self) -> bool:
        """Say whether the block runs with `-m long` only."""
        return self.title.startswith(LONG)


def pages() -> list[Path]:
    """Return the README and every page of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@functools.cache  # each worker asks for the blocks of all pages several times while it collects the tests
def blocks(page: Path) -> tuple[Block, ...]:
    """Return the code blocks of a page, in order; an indented block has no language."""
    return tuple(_blocks(page, page.read_text(encoding="utf-8"), 1))


def _blocks(page: Path, text: str, first_line: int) -> Iterator[Block]:
    before = ""
    for token in MarkdownIt().parse(text):
        line = first_line + (token.map[0] if token.map else 0)
        if token.type == "fence":
            language, _, rest = token.info.strip().partition(" ")
            title = rest.partition('title="')[2].partition('"')[0]
            yield Block(page, line, language, title, token.content)
        elif token.type == "code_block":  # to CommonMark, what a tab or a note of MkDocs contains is code
            inside = list(_blocks(page, token.content, line))
            if not inside and not before.startswith(("===", "!!!", "???")):
                inside = [Block(page, line, "", "", token.content)]
            yield from inside
        elif token.type == "inline":
            before = token.content.splitlines()[-1] if token.content else ""


def run_page(page: Path, folder: Path, long: bool, programs: Path | None = None) -> None:
    """Run the blocks of a page one after another in a folder, as a reader would.

    Args:
        page: The page's file.
        folder: Empty folder to run in.
        long: Run all blocks, since those after a long one may use its files; otherwise stop before it.
        programs: Folder of programs of another environment, where aerogaze is installed; None takes this one.

    Raises:
        AssertionError: A block failed; the message names its line and shows what it printed.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    environment, port = page_environment(folder, programs), str(free_tcp_port())
    for block in blocks(page):
        if not block.is_run:
            continue
        if block.is_long and not long:
            return
        block = replace(block, code=block.code.replace(PORT, port))
        if block.language == "python":
            run_python(block, folder, namespace)
        else:
            run_shell(block, folder, environment)


def page_environment(folder: Path, programs: Path | None = None) -> Mapping[str, str]:
    """Return the environment of a reader: the command on the path, an empty home, a wide terminal."""
    home = folder / ".home"
    home.mkdir(exist_ok=True)
    path = f"{programs or Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "PATH": path, "HOME": str(home), "COLUMNS": "100"}


def run_shell(block: Block, folder: Path, environment: Mapping[str, str]) -> None:
    """Run a shell block; it fails at its first command that fails. `pytest -s` shows what it printed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],  # noqa: S607
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(f"--- {block.place}\n{block.code}---\n{done.stdout}")
    assert done.returncode == 0, f"{block.place} ended with {done.returncode}:\n{block.code}\n{done.stdout}"


def run_python(block: Block, folder: Path, namespace: dict[str, Any]) -> None:
    """Run a Python block in the page's namespace and folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        exec(compile(block.code, block.place, "exec"), namespace)  # noqa: S102
    finally:
        os.chdir(before)


def check_unrun_shell(block: Block) -> None:
    """Check a shell block that cannot run: its syntax, and that the aerogaze commands and options exist.

    Raises:
        AssertionError: The block has an error; the message names its line.
    """
    parsed = subprocess.run(["bash", "-n", "-c", block.code], capture_output=True, text=True)  # noqa: S607
    assert parsed.returncode == 0, f"{block.place}: {parsed.stderr}"
    for line in block.code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for punctuation, words in groupby(
            lexer, key=lambda word: not set(word) - set(lexer.punctuation_chars)
        ):
            if not punctuation:
                _check_command(list(words), block.place)


def _check_command(words: list[str], place: str) -> None:
    """Check a command of aerogaze, wherever the program stands among the words (`sudo`, `env`)."""
    start = next((i for i, word in enumerate(words) if word.rpartition("/")[2] == "aerogaze"), None)
    if start is None or (start and words[start - 1].startswith("-")):  # not there, or the value of an option
        return
    context = click.Context(aerogaze, info_name="aerogaze")
    command: click.Command = aerogaze
    arguments = iter(words[start + 1 :])
    for word in arguments:
        if isinstance(command, click.Group) and not word.startswith("-"):
            found = command.get_command(context, word)
            assert found, f"{place}: {command.name} has no command {word}"
            command = found
        elif command.name == "exec" and not word.startswith("-"):  # the rest is another command
            _check_command([word, *arguments], place)
            return
        elif word.startswith("-") and not word.lstrip("-")[:1].isdigit():
            if word == "--" or word == "-":
                return
            names = {
                name
                for option in command.get_params(context)
                for name in (*option.opts, *option.secondary_opts)
            }
            assert word.partition("=")[0] in names, f"{place}: {command.name} has no option {word}"
            if word == "--ros-args":  # the rest is for ROS
                return
