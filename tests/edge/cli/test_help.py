"""Help of every command: it loads fast, fits the terminal, and says what options take."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import click
import pytest

from edge.cli.main import COMMANDS, aerogaze
from edge.sources.factory import BAG, HARDWARE, SYNTHETIC

if missing := [name for name in ("torch", "cryptography", "asyncssh") if find_spec(name) is None]:
    pytest.skip(
        f"{missing[0]} is not installed: pip install 'aerogaze[train,flash]'", allow_module_level=True
    )

WIDTH = 80
VAGUE = {"TEXT", "PATH", "DIRECTORY", "INTEGER", "INTEGER RANGE", "FLOAT", "FLOAT RANGE"}
"""Words of click that do not say what an option takes."""
SLOW = (
    "torch",
    "onnx",
    "onnxruntime",
    "lightning",
    "scipy",
    "matplotlib",
    "pydantic",
    "asyncssh",
    "polygraphy",
)
PRINT_IMPORTS = """
import contextlib, io, json, sys
from edge.cli.main import aerogaze
found = {}
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            aerogaze.main([*words, "--help"], prog_name="aerogaze", standalone_mode=False)
        except SystemExit:
            pass
    found[" ".join(words)] = [name for name in sys.argv[2].split(",") if name in sys.modules]
print(json.dumps(found))
"""


def _commands() -> Iterator[tuple[str, ...]]:
    """Yield the words of every command and subcommand."""
    context = click.Context(aerogaze, info_name="aerogaze")
    for name in COMMANDS:
        yield (name,)
        command = aerogaze.get_command(context, name)
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                yield name, child


ALL = list(_commands())
NAMES = [" ".join(words) for words in ALL]


def _find(words: tuple[str, ...]) -> click.Context:
    """Return a context of a command, as wide as a terminal."""
    context = click.Context(aerogaze, info_name="aerogaze", terminal_width=WIDTH, max_content_width=WIDTH)
    for word in words:
        command = context.command
        assert isinstance(command, click.Group)
        child = command.get_command(context, word)
        assert child is not None
        context = click.Context(child, context, word, terminal_width=WIDTH, max_content_width=WIDTH)
    return context


def test_no_help_imports_what_only_the_work_needs() -> None:
    words = json.dumps([list(words) for words in ALL])
    result = subprocess.run(
        [sys.executable, "-c", PRINT_IMPORTS, words, ",".join(SLOW)],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {name: modules for name, modules in json.loads(result.stdout).items() if modules}
    assert imported == {}, "the first command of these imports the modules"


def test_commands_are_listed_under_five_headings() -> None:
    text = aerogaze.get_help(click.Context(aerogaze, info_name="aerogaze", terminal_width=WIDTH))
    headings = [line.rstrip(":") for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert headings == ["Options", "Fly", "Measure", "Train", "Export", "Deliver"]
    for name, entry in COMMANDS.items():
        assert any(line.split()[:1] == [name] and line.endswith(entry.help) for line in text.splitlines()), (
            name
        )


@pytest.mark.parametrize("words", [(), *ALL], ids=["aerogaze", *NAMES])
def test_help_fits_eighty_columns_and_cuts_no_summary_off(words: tuple[str, ...]) -> None:
    text = _find(words).get_help()
    rows = [line for line in text.splitlines() if len(line) > WIDTH]
    assert rows == []
    summaries = text.partition("Commands:")[2]
    assert "..." not in summaries


@pytest.mark.parametrize("words", ALL, ids=NAMES)
def test_help_has_an_example(words: tuple[str, ...]) -> None:
    assert f"Example: aerogaze {' '.join(words)}" in " ".join(_find(words).get_help().split())


@pytest.mark.parametrize("words", ALL, ids=NAMES)
def test_each_option_says_what_it_takes(words: tuple[str, ...]) -> None:
    context = _find(words)
    vague = {
        option.opts[0]: option.make_metavar(context)
        for option in context.command.get_params(context)
        if isinstance(option, click.Option) and not option.is_flag and not option.hidden
        if option.make_metavar(context) in VAGUE
    }
    assert vague == {}


@pytest.mark.parametrize("words", ALL, ids=NAMES)
def test_no_help_refers_to_the_help_of_another_command(words: tuple[str, ...]) -> None:
    text = " ".join(_find(words).get_help().split())
    assert text.count("--help") == 1, "only the option itself"


@pytest.mark.parametrize(
    "start", ["/dev/video", "csi:", "gst:", "rtsp://", "ros2:", BAG, HARDWARE, SYNTHETIC]
)
def test_help_of_run_names_each_kind_of_source(start: str) -> None:
    assert f" {start}" in _find(("run",)).get_help()


def test_options_of_run_are_listed_under_headings() -> None:
    context = _find(("run",))
    text = context.get_help()
    headings = [line.rstrip(":") for line in text.splitlines() if line.endswith(":") and line[:1].strip()]
    expected = ["Input", "Model", "Output", "ROS 2", "MAVLink", "Where on earth", "Web", "Options"]
    assert headings == expected
    rest = text.partition("\nOptions:\n")[2].split("\n\n")[0]
    assert len(rest.splitlines()) == 1, "only --help is left over"


@pytest.mark.parametrize("words", ALL, ids=NAMES)
def test_headings_name_options_that_exist(words: tuple[str, ...]) -> None:
    command = _find(words).command
    names = {param.name for param in command.params}
    placed = [name for group in getattr(command, "sections", {}).values() for name in group]
    assert set(placed) <= names
    assert len(placed) == len(set(placed))
