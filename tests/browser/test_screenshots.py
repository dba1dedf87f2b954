"""The window of a test that fails is kept as a picture, and the message names the folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from browsing import NO_PLAYWRIGHT, needs_chromium

pytest.importorskip("playwright.sync_api", reason=NO_PLAYWRIGHT)
pytestmark = needs_chromium

TESTS = """
def test_that_passes(visit, tmp_path):
    (tmp_path / "a.html").write_text("<h1>Good</h1>")
    assert visit(tmp_path / "a.html").locator("h1").inner_text() == "Good"

def test_that_fails(visit, tmp_path):
    (tmp_path / "b.html").write_text("<h1>Bad</h1>")
    assert visit(tmp_path / "b.html").locator("h1").inner_text() == "Good"
"""


def test_a_window_is_kept_where_its_test_fails_and_nowhere_else(tmp_path):
    (tmp_path / "test_two.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "test_two.py"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in ran.stdout, ran.stdout + ran.stderr
    folder = tmp_path / "build" / "screenshots"
    assert f"Kept in {folder}: test_that_fails-1.png" in ran.stdout
    (picture,) = folder.iterdir()  # control: none of the test that passes
    assert picture.read_bytes().startswith(b"\x89PNG")
