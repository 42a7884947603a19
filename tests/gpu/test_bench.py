"""The benchmark of the GPU starts on a board, which lacks the libraries of training and export."""

from __future__ import annotations

import subprocess
import sys

ABSENT = ("torch", "lightning", "onnx", "scipy", "matplotlib", "polygraphy", "pydantic", "sympy")


def test_benchmark_of_the_gpu_imports_nothing_that_a_board_lacks() -> None:
    # None in sys.modules makes an import fail, as if the package was not installed.
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))\n"
        "import tests.bench.__main__ as bench, tests.bench.gpu as gpu\n"
        "print(bench.THEMES['gpu'], callable(gpu.gpu_rows))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout == "('gpu:gpu_rows',) True\n", process.stderr


def test_each_theme_of_the_benchmark_names_a_function() -> None:
    from importlib.util import find_spec
    from pathlib import Path

    from tests.bench.__main__ import LONG_THEMES, THEMES

    for name in (name for names in (*THEMES.values(), *LONG_THEMES.values()) for name in names):
        module, _, function = name.partition(":")
        spec = find_spec(f"tests.bench.{module}")
        assert spec is not None
        assert f"\ndef {function}(" in Path(spec.origin or "").read_text()
