"""The tree can be read: small folders, short functions, few parameters, a sentence for each package."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("edge", "calibration", "trainer", "export", "jetson")
MAX_MODULES = 12
MAX_LINES = 60
MAX_PARAMETERS = 8
Function = ast.FunctionDef | ast.AsyncFunctionDef


def _modules() -> list[Path]:
    return sorted(path for top in SOURCES for path in (ROOT / top).rglob("*.py"))


def _functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _is_command(function: Function) -> bool:
    """Say whether click makes the parameters: one for each option of a command."""
    decorators = (ast.unparse(decorator) for decorator in function.decorator_list)
    return any(
        name.startswith(("click.", "target_options", "input_options")) or ".command" in name
        for name in decorators
    )


def test_no_folder_holds_more_than_a_dozen_modules() -> None:
    sizes = Counter(path.parent for path in _modules() if path.name != "__init__.py")
    assert {str(folder): size for folder, size in sizes.items() if size > MAX_MODULES} == {}


def test_each_package_says_what_it_is_for_in_one_sentence() -> None:
    for package in (path for path in _modules() if path.name == "__init__.py"):
        docstring = ast.get_docstring(ast.parse(package.read_text(encoding="utf-8")))
        assert docstring, f"{package} has no docstring"
        first = docstring.split("\n\n")[0]
        assert first.endswith("."), package


@pytest.mark.parametrize("top", SOURCES)
def test_no_function_is_longer_than_a_page(top: str) -> None:
    long = {
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}": lines
        for path in _modules()
        if path.relative_to(ROOT).parts[0] == top
        for function in _functions(path)
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > MAX_LINES
    }
    assert long == {}


@pytest.mark.parametrize("top", SOURCES)
def test_no_function_takes_more_than_eight_parameters_but_a_command(top: str) -> None:
    many = {}
    for path in _modules():
        if path.relative_to(ROOT).parts[0] != top:
            continue
        for function in _functions(path):
            arguments = function.args
            names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            count = sum(name not in ("self", "cls") for name in names)
            if count > MAX_PARAMETERS and not _is_command(function):
                many[f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"] = count
    assert many == {}


def test_each_test_folder_mirrors_a_source_folder() -> None:
    for top in SOURCES:
        for folder in (ROOT / "tests" / top).rglob("*/"):
            if folder.name != "__pycache__" and any(folder.glob("test_*.py")):
                assert (ROOT / folder.relative_to(ROOT / "tests")).is_dir(), f"{folder} mirrors nothing"
