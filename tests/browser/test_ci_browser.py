"""How a bare machine of continuous integration gets a browser: the script, over commands that only say their names."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "browser"
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the script needs bash")
PIP = "python -m pip install --quiet --disable-pip-version-check -e .[browser]"
DEBIAN = ["apt-get update -qq", "apt-get install -qq -y chromium"]
OWN = "python -m playwright install --with-deps chromium"


@pytest.fixture
def machine(tmp_path):
    """Runs the script where there are some commands, of which those that match a text fail."""
    for folder in (".ci", "bin", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / ".ci")

    def run(*commands, failing="nothing"):
        for path in [*(tmp_path / "bin").iterdir(), *(tmp_path / ".venv" / "bin").iterdir()]:
            path.unlink()
        (tmp_path / "said").write_text("")
        says = f'echo "${{0##*/}} $*" >> {tmp_path}/said\n[[ "${{0##*/}} $*" != *"{failing}"* ]]\n'
        bodies = {"id": "echo 0\n", "grep": f'[ debian != "{failing}" ]\n', "sudo": 'shift; exec "$@"\n'}
        for name in ("id", "grep", *commands):
            path = tmp_path / "bin" / name if name != "python" else tmp_path / ".venv" / "bin" / name
            path.write_text(f"#!{shutil.which('bash')}\n" + bodies.get(name, says))
            path.chmod(0o755)
        (tmp_path / "bin" / "dirname").symlink_to(shutil.which("dirname"))
        command = [shutil.which("bash"), str(tmp_path / ".ci" / "browser")]
        environment = {**os.environ, "PATH": str(tmp_path / "bin")}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return (tmp_path / "said").read_text().splitlines(), ran.stdout.strip()

    return run


def test_a_bare_machine_gets_the_chromium_of_debian_else_that_of_playwright(machine):
    assert machine("python", "apt-get") == ([PIP, *DEBIAN], "")
    assert machine("python", failing="debian") == ([PIP, OWN], "")  # another system
    assert machine("python", "apt-get", failing="-y chromium") == ([PIP, *DEBIAN, OWN], "")  # no such package


def test_a_browser_that_is_there_is_taken(machine):
    said, path = machine("python", "apt-get", "chromium")
    assert said == [PIP] and path.endswith("/bin/chromium")


def test_what_cannot_be_had_is_named(machine):
    assert machine("python", failing="pip install") == ([PIP], "no Playwright: the tests in a browser are skipped")
    said, told = machine("python", "apt-get", failing="chromium")
    assert said == [PIP, *DEBIAN, OWN] and told == "no Chromium: the tests in a browser are skipped"
    assert machine("python", "apt-get")[1] == ""  # control
