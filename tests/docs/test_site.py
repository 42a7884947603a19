"""The documentation site builds without a warning, loads nothing from other hosts, and has every command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import calibration
import edge
import export
import jetson
import trainer
from edge.cli.main import COMMANDS
from tests.support.pages import ROOT

pytestmark = pytest.mark.xdist_group("site")  # the site is built once


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_site_builds_strictly_and_its_pages_load_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(COMMANDS)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|link)\b[^>]*?(?:src|href)="(https?:[^"]*|//[^"]*)"', text)
        assert loaded == [], page


def test_reference_lists_every_command_and_every_public_name(site: Path) -> None:
    commands = (site / "reference/commands.html").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert re.search(rf"<h\d[^>]*>\s*(aerogaze )?{name}\b", commands), name
    api = (site / "reference/api.html").read_text(encoding="utf-8")
    for package in (edge, trainer, calibration, export, jetson):
        for name in package.__all__:
            assert f'id="{package.__name__}.{name}"' in api, name


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_front_pages_lead_to_files(name: str) -> None:
    page = ROOT / name
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    inline = [child for token in tokens for child in token.children or ()]
    links = [str(child.attrs["href"]) for child in inline if child.type == "link_open"]
    links += re.findall(r'<img src="([^"]+)"', page.read_text(encoding="utf-8"))
    for link in links:
        if not link.startswith("https://"):
            assert (ROOT / link.partition("#")[0]).exists(), link


def test_pictures_of_the_readme_are_below_a_megabyte() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "docs/images").iterdir()) < 1_000_000
