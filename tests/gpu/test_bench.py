"""The benchmark of the GPU starts on a board, which lacks the libraries of training and export."""

from __future__ import annotations

import subprocess
import sys

ABSENT = ("torch", "lightning", "onnx", "scipy", "matplotlib", "polygraphy", "pydantic", "sympy")


def test_benchmark_of_the_gpu_imports_nothing_that_a_board_lacks() -> None:
    # None in sys.modules makes an import fail, as if the package was not installed.
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))\n"
        "import tests.bench.__main__, tests.bench.themes as themes\n"
        "print(*(benchmark.name for benchmark in themes.load_benchmarks('gpu')), sep=', ')"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout == "CUDA graphs, pipeline, papers\n", process.stderr
