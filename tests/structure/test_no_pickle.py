"""Nothing in the tree reads a pickle: reading one runs the code that is in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("edge", "calibration", "trainer", "export", "jetson", "tests", "docs")
PICKLE_MODULES = {
    "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve",
}  # fmt: skip
HARMLESS_NAMES = {"PickleError", "UnpicklingError", "PicklingError", "dumps", "dump"}
"""Names of these modules that read nothing."""


def find_unsafe_reads(source: str) -> Iterator[str]:
    """Yield line number and text of each expression that reads a pickle or allows one to be read."""
    tree = ast.parse(source)
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name.split(".")[0]] = alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            module = (node.module or "").split(".")[0]
            if (module in PICKLE_MODULES and names - HARMLESS_NAMES) or (
                module == "torch" and "load" in names
            ):
                yield f"{node.lineno}: {ast.unparse(node)}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_unsafe_attribute(node, aliases):
            yield f"{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Call) and _is_unsafe_call(node, aliases):
            yield f"{node.lineno}: {ast.unparse(node)}"


def _is_unsafe_attribute(node: ast.Attribute, aliases: dict[str, str]) -> bool:
    module = aliases.get(node.value.id) if isinstance(node.value, ast.Name) else None
    return module in PICKLE_MODULES and node.attr not in HARMLESS_NAMES


def _is_unsafe_call(call: ast.Call, aliases: dict[str, str]) -> bool:
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if keywords.get("allow_pickle", "False") != "False":
        return True
    if keywords.get("weights_only", "True") != "True":
        return True
    function = call.func
    reads_tensors = (
        isinstance(function, ast.Attribute)
        and function.attr == "load"
        and isinstance(function.value, ast.Name)
        and aliases.get(function.value.id) == "torch"
    )
    return reads_tensors and "weights_only" not in keywords


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_of_the_tree_reads_a_pickle(folder: str) -> None:
    unsafe = [
        f"{path.relative_to(ROOT)}:{read}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for read in find_unsafe_reads(path.read_text(encoding="utf-8"))
    ]
    assert unsafe == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(b'')",
        "import pickle as p\np.Unpickler(file)",
        "from pickle import load",
        "from torch import load",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "trainer.fit(stage, weights_only=False if step else None)",
        "trainer.fit(stage, weights_only=safe)",
        "np.load(path, allow_pickle=True)",
        "import joblib\njoblib.load(path)",
        "import shelve\nshelve.open(path)",
    ],
)
def test_unsafe_reads_are_found(source: str) -> None:
    assert list(find_unsafe_reads(source))


def test_errors_and_writers_of_pickle_are_allowed() -> None:
    source = "import pickle, torch\npickle.dumps(1)\npickle.UnpicklingError\ntorch.load(p, weights_only=True)"
    assert not list(find_unsafe_reads(source))


def test_ruff_checks_for_pickle() -> None:
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"S301"' not in settings
