"""What the README says is what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_langasync.config import OPTIONS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
pytestmark = pytest.mark.skipif(not README.exists(), reason="needs the source tree")


def text() -> str:
    return README.read_text(encoding="utf-8")


def test_quick_start_begins_with_the_two_commands() -> None:
    section = text().split("## Quick start\n", 1)[1].split("\n## ", 1)[0]
    examples, tests = re.findall(r"```bash\n(.*?)\n```", section, re.DOTALL)[:2]
    assert "\n" not in examples + tests
    assert examples.endswith("pytest examples --langasync-sandbox")
    assert tests.endswith("pytest tests -n auto")


def test_every_option_is_described_and_no_other() -> None:
    described = set(re.findall(r"^\| `(--langasync-[a-z-]+)", text(), re.MULTILINE))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--help", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT / "tests",
    )
    assert described == set(re.findall(r"^ +(--langasync-[a-z-]+)", done.stdout, re.MULTILINE))


def test_ini_settings_are_marked() -> None:
    rows = re.findall(r"^\| `--langasync-([a-z-]+)[^|]*\|(.*)\|$", text(), re.MULTILINE)
    marked = {name for name, does in rows if "(*ini*)" in does}
    assert marked == {o.name.replace("_", "-") for o in OPTIONS if o.ini and o.cli}
    only = set(re.findall(r"^\| `langasync_([a-z_]+)`", text(), re.MULTILINE))
    assert only == {o.name for o in OPTIONS if not o.cli}


def test_nightly_recipe_is_the_file() -> None:
    recipe = (ROOT / "examples" / "nightly.yml").read_text(encoding="utf-8")
    assert f"```yaml\n{recipe}```" in text()


def test_links_and_named_files_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text())
    named = re.findall(r"`((?:tests|examples|benchmarks)/[\w./]+)`", text())
    assert links
    assert named
    assert [path for path in links + named if not (ROOT / path).exists()] == []
