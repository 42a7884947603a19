"""Every shell and Python block of the README and of the documentation runs as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pages import ROOT, RUN, Block, blocks, check_unrun_shell, pages, run_page

RUN_ELSEWHERE = {"README.md": "system/test_install.py", "docs/reference/fleet.md": "jetson/cli/test_fleet.py"}
"""Pages whose blocks another test runs, which checks what they write, too; and the file of that test."""
SHOWN = ("text", "toml", "ini", "json", "yaml", "html", "xml", "console")
PAGES = [page for page in pages() if any(block.is_run for block in blocks(page))]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _unrun(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in RUN and not block.is_run]


def _first(page: Path) -> Block:
    return next(block for block in blocks(page) if block.is_run)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if not _first(page).is_long and _name(page) not in RUN_ELSEWHERE],
    ids=_name,
)
def test_blocks_of_a_page_run_as_written(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path, long=False)


@pytest.mark.long
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.is_long for block in blocks(page))], ids=_name
)
def test_long_blocks_of_a_page_run_as_written(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path, long=True)


@pytest.mark.parametrize(("page", "file"), RUN_ELSEWHERE.items())
def test_page_that_another_test_runs_is_run_there(page: str, file: str) -> None:
    text = (ROOT / "tests" / file).read_text(encoding="utf-8")
    assert f'run_page(ROOT / "{page}", tmp_path, long=False' in text


@pytest.mark.parametrize("page", pages(), ids=_name)
def test_each_block_names_a_language(page: Path) -> None:
    for block in blocks(page):
        assert block.language in (*RUN, *SHOWN), f"{block.place}: language {block.language!r}"


@pytest.mark.parametrize("page", [page for page in pages() if _unrun(page)], ids=_name)
def test_blocks_that_need_hardware_have_valid_commands(page: Path) -> None:
    for block in _unrun(page):
        if block.language == "sh":
            check_unrun_shell(block)
        else:
            compile(block.code, block.place, "exec")
    titles = sorted({f"line {block.line}: {block.title}" for block in _unrun(page)})
    pytest.skip(f"commands and options are valid, but were not run: {_name(page)}, {'; '.join(titles)}")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("aerogaze run csi:0 --no-such-option", "run has no option --no-such-option"),
        ("sudo /opt/aerogaze/bin/aerogaze device fly", "device has no command fly"),
        ("aerogaze device exec aerogaze run csi:0 --no-such-option", "run has no option --no-such-option"),
        ("aerogaze keys new --out k && aerogaze flesh b.swu", "aerogaze has no command flesh"),
        ("if true; then", "syntax error"),
    ],
)
def test_invalid_command_in_a_block_that_is_not_run_is_found(code: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_unrun_shell(Block(ROOT / "README.md", 1, "sh", "Needs a Jetson", code))


def test_blocks_in_tabs_and_notes_are_found_and_indented_code_has_no_language(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '=== "Desk"\n\n    ```sh title="Needs a Jetson"\n    ls\n    ```\n\n'
        "!!! note\n\n    Only text.\n\nText.\n\n    indented code\n"
    )
    found = [(block.language, block.title, block.line, block.code) for block in blocks(page)]
    assert found == [("sh", "Needs a Jetson", 3, "ls\n"), ("", "", 13, "indented code\n")]
