"""What a bug report needs: versions, device, memory, kernel and data of this machine; and what is wrong."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

PROBE = """
import json, torch
facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": "cpu"}
if torch.cuda.is_available():
    facts["device"] = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
elif torch.backends.mps.is_available():
    facts["device"] = "mps"
try:
    import torchvision
except Exception as error:
    facts["torchvision"] = f"{type(error).__name__}: {error}"
print(json.dumps(facts))
"""
INSTALL = "run 'make course', or 'python -m pip install -e .' in the repository"


class Line(NamedTuple):
    """One line of the table; `advice` is what to do, and empty if all is well."""

    what: str
    found: str
    advice: str = ""


def lines() -> Iterator[Line]:
    """Look at this machine, one line at a time. Raises nothing: what cannot be found out is a line too."""
    for part in (python_line, version_lines, torch_lines, memory_lines, kernel_line, data_lines):
        try:
            yield from part()
        except Exception as error:
            yield Line(part.__name__.split("_")[0], f"cannot tell: {type(error).__name__}: {error}", INSTALL)


def python_line() -> Iterator[Line]:
    """The interpreter and the system."""
    old = sys.version_info < (3, 11)
    yield Line("python", platform.python_version(), "use Python 3.11 or newer" if old else "")
    yield Line("platform", platform.platform())


def requirements() -> list[str]:
    """What the package asks for, from pyproject.toml beside it, else from its installed metadata."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.exists():
        return tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    return [r for r in metadata.requires("dwflow-lite") or [] if "extra ==" not in r]


def version_lines() -> Iterator[Line]:
    """Each required package: its version, and whether that meets the bound."""
    try:
        yield Line("dwflow-lite", metadata.version("dwflow-lite"))
    except metadata.PackageNotFoundError:
        yield Line("dwflow-lite", "not installed", INSTALL)
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        SpecifierSet = None
        yield Line("packaging", "missing, bounds are not checked", INSTALL)
    for text in requirements():
        name, bound = re.match(r"([\w.-]+)(?:\[.*?\])?\s*([^;]*)", text).groups()
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Line(name, "missing", INSTALL)
            continue
        fits = SpecifierSet is None or SpecifierSet(bound).contains(version, prereleases=True)
        yield Line(name, version if fits else f"{version}, needs {bound}", "" if fits else INSTALL)


def probe_torch() -> dict[str, Any]:
    """Import torch and torchvision in a process of their own (a bad build may crash it).

    Returns torch, threads, device, and `torchvision`: its error, if it cannot be imported. A dictionary
    with only `error` if torch itself cannot be.
    """
    try:
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired:
        return {"error": "importing torch took more than 3 minutes"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"Python ended with {done.returncode}"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def torch_lines() -> Iterator[Line]:
    """Device and threads, and whether torch and torchvision belong together."""
    found = probe_torch()
    if "error" in found:
        yield Line("import torch", found["error"], INSTALL)
        return
    yield Line("device", found["device"])
    yield Line("threads", f"{os.cpu_count()} cores, torch uses {found['threads']}")
    if broken := found.get("torchvision"):
        advice = INSTALL
        if "nms" in broken or "libtorch" in broken or "undefined symbol" in broken:
            advice = (
                "torch and torchvision are builds that do not belong together; install both again with one "
                "command and from one place: python -m pip install --force-reinstall torch torchvision"
            )
        yield Line("import torchvision", broken, advice)
    else:
        yield Line("torchvision", "imports together with torch")


def memory_lines() -> Iterator[Line]:
    """Memory and disk; the course wants about 2 GB of each."""
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    yield Line("disk free", f"{free:.1f} GB", "free 2 GB of disk" if free < 2 else "")
    import psutil

    memory = psutil.virtual_memory()
    low = "close other programs: the course needs about 2 GB" if memory.available < 1.5e9 else ""
    yield Line("memory", f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB available", low)


def kernel_line() -> Iterator[Line]:
    """Which Python the kernel 'python3' starts; that is what Jupyter uses (the runner has its own)."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    mend = f"{sys.executable} -m ipykernel install --sys-prefix --name python3"
    try:
        start = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        yield Line("kernel python3", "not found", mend)
        return
    named = Path(start).is_absolute()
    same = not named or os.path.dirname(start) == os.path.dirname(sys.executable)
    yield Line(
        "kernel python3",
        start if named else f"{start}: this Python",
        "" if same else f"another Python: {mend}",
    )


def data_lines() -> Iterator[Line]:
    """What came with the repository, and the optional downloads."""
    from .paths import data_folder

    optional = ("MNIST", "FashionMNIST")
    folder = data_folder()
    files = [p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).parts[0] not in optional]
    size = sum(p.stat().st_size for p in files) / 1e6
    yield Line("data", f"{len(files)} files, {size:.1f} MB", "" if files else "'git checkout data' brings it back")
    places = [folder, *([Path(os.environ["DWFLOW_DATA"])] if os.environ.get("DWFLOW_DATA") else [])]
    for name in optional:
        there = any((p / name).is_dir() for p in places)
        yield Line(name, "found" if there else "not there (optional)")


def main() -> int:
    """Print the table and what to do. Returns 0 if all is well, else 1."""
    found = list(lines())
    wide = max(len(x.what) for x in found)
    for x in found:
        print(f"{x.what:<{wide}}  {'!!' if x.advice else 'ok'}  {x.found}")
    wrong = [x for x in found if x.advice]
    for x in wrong:
        print(f"\nwrong: {x.what}: {x.found}\n   do: {x.advice}")
    print("\n" + (f"{len(wrong)} to mend." if wrong else "All is well."))
    return 1 if wrong else 0
