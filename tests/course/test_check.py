"""The environment check on simulated machines."""

import builtins
import json
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

from dwflow_lite.course import check

GOOD = {"torch": "2.9", "threads": 2, "device": "cpu"}


@pytest.fixture
def healthy(monkeypatch, tmp_path):
    """A machine on which all is well."""
    real = metadata.version
    versions = {"dwflow-lite": "0.1.0"}

    def version(name):
        return versions[name] if name in versions else real(name)

    (tmp_path / "zoo.bin").write_text("x")
    monkeypatch.setattr(check.metadata, "version", version)
    monkeypatch.setattr(check, "probe_torch", lambda: dict(GOOD))
    monkeypatch.setattr("dwflow_lite.course.paths.data_folder", lambda: tmp_path)
    monkeypatch.setattr(check, "requirements", lambda: ["numpy>=1.26", "papermill>=2.6"])
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=8e9, available=4e9))
    monkeypatch.setattr(check.shutil, "disk_usage", lambda path: SimpleNamespace(free=9e9))
    return versions


def test_all_is_well(healthy, capsys):
    assert check.main() == 0
    text = capsys.readouterr().out
    assert "All is well." in text and "!!" not in text and "numpy" in text


def wrong(capsys, code=1):
    assert check.main() == code
    return capsys.readouterr().out


def test_devices_are_named_as_they_are_typed(healthy, monkeypatch, capsys):
    monkeypatch.setattr(check, "probe_torch", lambda: {**GOOD, "devices": ["cpu", "cuda:0"]})
    assert check.main() == 0
    assert "ok  'auto' 'cpu' 'cuda:0'" in capsys.readouterr().out


def test_too_old(healthy, capsys):
    healthy["numpy"] = "1.20"
    assert "wrong: numpy: 1.20, needs >=1.26" in wrong(capsys)


def test_missing(healthy, monkeypatch, capsys):
    monkeypatch.setattr(check, "requirements", lambda: ["no-such-package>=1"])
    assert "wrong: no-such-package: missing" in wrong(capsys)


def test_mismatched_torchvision(healthy, monkeypatch, capsys):
    said = "RuntimeError: operator torchvision::nms does not exist"
    monkeypatch.setattr(check, "probe_torch", lambda: {**GOOD, "torchvision": said})
    text = wrong(capsys)
    assert said in text and "--force-reinstall torch torchvision" in text


def test_torch_does_not_import(healthy, monkeypatch, capsys):
    monkeypatch.setattr(check, "probe_torch", lambda: {"error": "ImportError: no libfoo"})
    assert "wrong: import torch: ImportError: no libfoo" in wrong(capsys)


@pytest.mark.parametrize(
    "done, says",
    [
        (SimpleNamespace(returncode=-11, stderr="", stdout=""), "Python ended with -11"),
        (SimpleNamespace(returncode=1, stderr="Trace\nImportError: x", stdout=""), "ImportError: x"),
    ],
)
def test_probe_survives_a_crash(monkeypatch, done, says):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: done)
    assert check.probe_torch() == {"error": says}


def test_kernel_of_another_python(healthy, monkeypatch, capsys):
    spec = SimpleNamespace(argv=["/somewhere/else/bin/python"])
    monkeypatch.setattr("jupyter_client.kernelspec.KernelSpecManager.get_kernel_spec", lambda self, name: spec)
    assert "another Python" in wrong(capsys)


def test_no_kernel(healthy, monkeypatch, capsys):
    from jupyter_client.kernelspec import NoSuchKernel

    def none(self, name):
        raise NoSuchKernel(name)

    monkeypatch.setattr("jupyter_client.kernelspec.KernelSpecManager.get_kernel_spec", none)
    assert "-m ipykernel install" in wrong(capsys)


def test_little_memory_disk_and_no_data(healthy, monkeypatch, tmp_path, capsys):
    (tmp_path / "zoo.bin").unlink()
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=2e9, available=1e8))
    monkeypatch.setattr(check.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e8))
    text = wrong(capsys)
    assert "close other programs" in text and "free 2 GB" in text and "git checkout data" in text


@pytest.fixture
def in_a_copy(healthy, monkeypatch, tmp_path):
    """The same, in a student's copy; the version of the package that made it can be set."""
    healthy["dwflow-lite"] = check.__version__

    def made_by(version):
        (tmp_path / "copy" / "dwflow_copy.json").write_text(json.dumps({"version": version}))

    (tmp_path / "copy").mkdir()
    made_by(check.__version__)
    monkeypatch.chdir(tmp_path / "copy")
    return made_by


def test_a_student_is_told_what_a_student_can_do(in_a_copy, monkeypatch, tmp_path, capsys):
    assert check.main() == 0
    assert "student's copy" in capsys.readouterr().out
    in_a_copy("0.0.1")
    assert "do: install dwflow-lite 0.0.1, or ask for a copy that" in wrong(capsys)
    in_a_copy(check.__version__)
    monkeypatch.setattr(check, "requirements", lambda: ["no-such-package>=1"])
    (tmp_path / "zoo.bin").unlink()
    text = wrong(capsys)
    assert "as whoever gave you this copy says" in text and "take it from the copy you were given" in text
    assert "make" not in text.replace("made", "") and "git" not in text


def test_what_one_notebook_alone_needs_may_be_missing(healthy, monkeypatch, capsys):
    real = check.metadata.version

    def version(name):
        if name in check.EXTRAS:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(check.metadata, "version", version)
    assert check.main() == 0
    assert capsys.readouterr().out.count("missing (only notebook 08b needs it)") == 3


def test_old_python(healthy, monkeypatch, capsys):
    monkeypatch.setattr(check.sys, "version_info", (3, 9, 1))
    assert "use Python 3.11" in wrong(capsys)


@pytest.mark.parametrize("gone", ["psutil", "packaging", "jupyter_client"])
def test_nothing_crashes_without(healthy, monkeypatch, capsys, gone):
    real = builtins.__import__

    def without(name, *rest, **kw):
        if name.split(".")[0] == gone:
            raise ImportError(f"No module named '{gone}'")
        return real(name, *rest, **kw)

    monkeypatch.setattr(builtins, "__import__", without)
    assert gone in wrong(capsys)


def test_course_package_needs_neither_torch_nor_papermill():
    code = "import sys, dwflow_lite.course, dwflow_lite.__main__, dwflow_lite.course.check\n"
    code += "assert not {'torch', 'papermill', 'IPython'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=check.Path(__file__).parents[2]).returncode == 0
