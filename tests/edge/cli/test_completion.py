"""Completion in real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMPLETE = {
    "bash": 'eval "$(_AEROGAZE_COMPLETE=bash_source aerogaze)"\n'
    "COMP_WORDS=({words}); COMP_CWORD={last}; _aerogaze_completion aerogaze\n"
    'printf "%s\\n" "${{COMPREPLY[@]}}"\n',
    "fish": "_AEROGAZE_COMPLETE=fish_source aerogaze | source\ncomplete --do-complete '{line}'\n",
    "zsh": "autoload -U compinit; compinit -u -D\n"
    'eval "$(_AEROGAZE_COMPLETE=zsh_source aerogaze)"\n'
    "words=({words}); CURRENT={count}\n"
    # Both take the name of an array: _describe third, of "word:help"; compadd last, of words.
    '_describe() {{ print -l -- "${{(@)${{(@P)3}}%%:*}}"; }}; compadd() {{ print -l -- "${{(@P)@[-1]}}"; }}\n'
    "_aerogaze_completion\n",
}
"""Program of each shell that completes a line and prints the proposals."""


def _complete(shell: str, line: str, folder: Path) -> list[str]:
    """Return what a shell proposes for the last word of a line."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here (apt-get install {shell})")
    words = [word or "''" for word in line.split(" ")]
    text = COMPLETE[shell].format(words=" ".join(words), last=len(words) - 1, count=len(words), line=line)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
    }
    result = subprocess.run(
        [program, "-c", text], env=environment, cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.mark.parametrize("shell", COMPLETE)
def test_commands_are_completed(shell: str, tmp_path: Path) -> None:
    found = _complete(shell, "aerogaze do", tmp_path)
    assert "doctor" in found
    assert "demo" not in found


@pytest.mark.parametrize("shell", COMPLETE)
def test_options_are_completed(shell: str, tmp_path: Path) -> None:
    assert "--overlay" in _complete(shell, "aerogaze run --over", tmp_path)


@pytest.mark.parametrize("shell", COMPLETE)
def test_subcommands_are_completed(shell: str, tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="the command device needs the extra jetson")
    assert "rollback" in _complete(shell, "aerogaze device roll", tmp_path)


@pytest.mark.parametrize("shell", COMPLETE)
def test_values_of_an_option_are_completed(shell: str, tmp_path: Path) -> None:
    assert "onnxruntime" in _complete(shell, "aerogaze run --engine onnx", tmp_path)
