"""What a bug report needs: versions, device, memory, kernel and data of this machine; and what is wrong."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from dwflow_lite import __version__
from dwflow_lite.course import paths
from dwflow_lite.course.report import say

PROBE = """
import json, torch
from dwflow_lite.course.sweep import machine
from dwflow_lite.support.devices import devices_here
facts = machine() | {"devices": devices_here()}
try:
    import torchvision
except Exception as error:
    facts["torchvision"] = f"{type(error).__name__}: {error}"
print(json.dumps(facts))
"""
INSTALL = "run 'make course', or 'python -m pip install -e .' in the repository"
INSTALL_IN_A_COPY = "install the package once more, as whoever gave you this copy says"
EXTRAS = ("transformers", "dask", "distributed")  # of the extras "text" and "cluster"
MISMATCH = (
    "torch and torchvision are builds that do not belong together; install both again with one "
    "command and from one place: python -m pip install --force-reinstall torch torchvision"
)


class Line(NamedTuple):
    """One line of the table; `advice` is what to do, and empty if all is well."""

    what: str
    state: str
    advice: str = ""


def here(in_a_clone: str, in_a_copy: str) -> str:
    """The advice for where we stand: in a student's copy there is neither make nor a repository."""
    return in_a_clone if paths.student_copy() is None else in_a_copy


def install() -> str:
    """How to get what is missing."""
    return here(INSTALL, INSTALL_IN_A_COPY)


def lines() -> Iterator[Line]:
    """Look at this machine, one line at a time. Raises nothing: what cannot be found out is a line too."""
    for part in (python, packages, student_copy, torch, memory, kernel, data):
        try:
            yield from part()
        except FileNotFoundError as error:
            yield Line(part.__name__, "not there", str(error))
        except Exception as error:
            yield Line(part.__name__, f"cannot tell: {type(error).__name__}: {error}", install())


def python() -> Iterator[Line]:
    """The interpreter and the system."""
    old = sys.version_info < (3, 11)
    version = f"{platform.python_version()}, {platform.platform()}"
    yield Line("python", version, "use Python 3.11 or newer" if old else "")


def requirements() -> list[str]:
    """What the package asks for, by the pyproject.toml beside it; in a student's copy, as it was installed."""
    file = paths.repository() / "pyproject.toml"
    if not file.exists():
        return [text for text in metadata.requires("dwflow-lite") or () if "extra ==" not in text]
    return tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"]


def packages() -> Iterator[Line]:
    """This package and each that it requires: its version, and whether that meets the bound."""
    from packaging.requirements import Requirement

    for text in ["dwflow-lite", *requirements()]:
        requirement = Requirement(text)
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Line(requirement.name, "missing", install())
            continue
        if requirement.specifier.contains(version, prereleases=True):
            yield Line(requirement.name, version)
        else:
            yield Line(requirement.name, f"{version}, needs {requirement.specifier}", install())
    for name in EXTRAS:
        try:
            yield Line(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Line(name, "missing (only notebook 08b needs it)")


def probe_torch() -> dict[str, Any]:
    """Import torch and torchvision in a process of their own (a bad build may crash it).

    Returns threads, device, names of all devices, and `torchvision`: its error, if it cannot be imported. A dictionary
    with only `error` if torch itself cannot be.
    """
    try:
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired:
        return {"error": "importing torch took more than 3 minutes"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"Python ended with {done.returncode}"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def torch() -> Iterator[Line]:
    """Device and threads, and whether torch and torchvision belong together."""
    facts = probe_torch()
    if "error" in facts:
        yield Line("import torch", facts["error"], install())
        return
    yield Line("device", f"{facts['device']}; {os.cpu_count()} cores, torch uses {facts['threads']} threads")
    yield Line("device=", " ".join(map(repr, ["auto", *facts.get("devices", [])])))
    error = facts.get("torchvision")
    if error:
        mismatch = any(sign in error for sign in ("nms", "libtorch", "undefined symbol"))
        yield Line("import torchvision", error, MISMATCH if mismatch else install())


def memory() -> Iterator[Line]:
    """Memory and disk; the course wants about 3 GB of the one and 2 GB of the other."""
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    yield Line("disk free", f"{free:.1f} GB", "free 2 GB of disk" if free < 2 else "")
    import psutil

    memory = psutil.virtual_memory()
    low = "close other programs: the course needs about 3 GB" if memory.available < 3e9 else ""
    yield Line("memory", f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB available", low)


def kernel() -> Iterator[Line]:
    """Which Python the kernel 'python3' starts; that is what Jupyter uses (the runner has its own)."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    mend = f"{sys.executable} -m ipykernel install --sys-prefix --name python3"
    try:
        start = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        yield Line("kernel python3", "not found", mend)
        return
    same = os.path.dirname(start) in ("", os.path.dirname(sys.executable))  # a bare name is this Python
    yield Line("kernel python3", start, "" if same else f"another Python: {mend}")


def student_copy() -> Iterator[Line]:
    """In a student's copy: the version of the package that made it, and whether that is the one here."""
    copy = paths.student_copy()
    if copy is None:
        return
    made_by = json.loads((copy / paths.COPY).read_text(encoding="utf-8"))["version"]
    other = f"install dwflow-lite {made_by}, or ask for a copy that {__version__} made: exercises and checks may differ"
    yield Line("student's copy", f"made by dwflow-lite {made_by}", "" if made_by == __version__ else other)


def data() -> Iterator[Line]:
    """What came with the repository, and the optional downloads."""
    optional = ("MNIST", "FashionMNIST", "cifar-10-batches-py")
    folder = paths.data_folder()
    files = [path for path in folder.glob("*") if path.is_file() and path.suffix != ".gz"]
    size = sum(path.stat().st_size for path in files) / 1e6
    mend = here("'git checkout data' brings it back", "take it from the copy you were given")
    yield Line("data", f"{len(files)} files, {size:.1f} MB", "" if files else mend)
    for name in optional:
        there = any((Path(place) / name).is_dir() for place in (folder, os.environ.get("DWFLOW_DATA", folder)))
        yield Line(name, "found" if there else "not there (optional)")


def main() -> int:
    """Print the table and what to do. Returns 0 if all is well, else 1."""
    table = list(lines())
    width = max(len(line.what) for line in table)
    for line in table:
        say(sys.stdout, f"{line.what:<{width}}  {'!!' if line.advice else 'ok'}  {line.state}\n")
    wrong = [line for line in table if line.advice]
    for line in wrong:
        say(sys.stdout, f"\nwrong: {line.what}: {line.state}\n   do: {line.advice}\n")
    say(sys.stdout, "\n" + (f"{len(wrong)} to mend." if wrong else "All is well.") + "\n")
    return 1 if wrong else 0
