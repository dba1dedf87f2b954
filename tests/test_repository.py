"""The files for strangers: licences, citation, how to contribute, what changed, and what the workflow runs."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ARXIV = "2601.05052"


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_citation_names_the_course_and_the_paper():
    citation = yaml.safe_load(read("CITATION.cff"))
    required = {"cff-version", "message", "title", "authors"}  # of every file of this format
    assert required <= citation.keys() and citation["cff-version"] == "1.2.0"
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys() and paper["year"] == 2026
    assert ARXIV in paper["url"] and ARXIV in paper["identifiers"][0]["value"]
    assert paper["title"] in " ".join(read("README.md").replace("*", "").split())
    assert len(paper["authors"]) == 6 and all({"family-names", "given-names"} == set(a) for a in paper["authors"])


def test_the_licences_are_those_that_pyproject_names():
    assert PROJECT["license"] == "MIT AND CC-BY-4.0"
    assert PROJECT["license-files"] == ["LICENSE", "LICENSE-TEXT"]
    code, text = map(read, PROJECT["license-files"])
    assert code.startswith("MIT License\n") and "Copyright (c) 2026 the authors of the course" in code
    assert "https://creativecommons.org/licenses/by/4.0/" in text and "CC-BY-4.0" in text
    assert "MIT" in text and "creativecommons" not in code  # each says which it is
    assert yaml.safe_load(read("CITATION.cff"))["license"] == "MIT"


def pythons_of(workflow):
    (job,) = workflow["jobs"].values()
    return job["strategy"]["matrix"]["python"]


def test_continuous_integration_runs_what_a_reader_runs_on_the_pythons_of_pyproject():
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML 1.1 reads the key "on" as true
    pythons = pythons_of(workflow)
    assert pythons == ["3.11", "3.12", "3.13"]
    classified = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert pythons == classified and PROJECT["requires-python"] == f">={pythons[0]}"
    (job,) = workflow["jobs"].values()
    assert job["timeout-minutes"] <= 120
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    (setup,) = [step["with"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert setup["cache"] == "pip" and "matrix.python" in setup["python-version"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111  # it can be run
    unquoted = yaml.safe_load(read(".github/workflows/ci.yml").replace('"3.11"', "3.10"))
    assert pythons_of(unquoted) != classified  # control: 3.10 without quotes would be 3.1


def test_a_gpu_runner_is_started_by_hand_and_keeps_what_it_made():
    workflow = yaml.safe_load(read(".github/workflows/gpu.yml"))
    assert set(workflow[True]) == {"workflow_dispatch"}
    (job,) = workflow["jobs"].values()
    assert job["runs-on"] == ["self-hosted", "gpu"] and job["timeout-minutes"] <= 600
    assert any(step.get("run", "").startswith("make course PROFILE=gpu") for step in job["steps"])
    (kept,) = [step for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
    assert kept["with"]["path"] == "build/" and kept["if"] == "always()"


def test_every_night_the_whole_course_is_run_and_a_failure_is_kept_and_told():
    workflow = yaml.safe_load(read(".github/workflows/nightly.yml"))
    assert set(workflow[True]) == {"schedule", "workflow_dispatch"}
    assert workflow["permissions"] == {"contents": "read", "issues": "write"}  # and no more
    (job,) = workflow["jobs"].values()
    steps = [step.get("run", "") for step in job["steps"]]
    assert "make course" in steps and any("benchmarks.bands build/report.json" in step for step in steps)
    assert any("pytest" in step and step.endswith("--cov") and "DWFLOW_ALL_SLIDERS=1" in step for step in steps)
    assert any("PYTHONPATH=$PWD/tests/card" in step and "-p device cuda" in step for step in steps)
    assert not any(".ci/run" in step or "lock" in step for step in steps)  # with the newest versions
    on_failure = [step for step in job["steps"] if step.get("if") == "failure()"]
    kept, told = on_failure
    assert "upload-artifact" in kept["uses"] and "build/" in kept["with"]["path"]
    assert "gh issue create" in told["run"] and "issue list" in told["run"]  # one issue, not one every night


def test_gitlab_runs_the_same():
    pipeline = yaml.safe_load(read(".gitlab-ci.yml"))
    jobs = {name: job for name, job in pipeline.items() if isinstance(job, dict) and "script" in job}
    assert set(jobs) == {"test", "laptop", "gpu"} and all(job["stage"] in pipeline["stages"] for job in jobs.values())
    assert jobs["test"]["script"] == [".ci/run"]
    assert "make course" in jobs["laptop"]["script"] and "make course PROFILE=gpu" in jobs["gpu"]["script"]
    assert "schedule" in str(jobs["laptop"]["rules"]) and "schedule" not in str(jobs["test"]["rules"])
    assert jobs["gpu"]["tags"] == ["gpu"] and all(
        jobs[name]["artifacts"]["when"] == "always" for name in ("laptop", "gpu")
    )


def test_no_workflow_holds_a_secret_or_a_name_of_a_repository():
    for name in (".github/workflows/nightly.yml", ".github/workflows/gpu.yml", ".gitlab-ci.yml"):
        assert not re.search(r"secrets\.|https?://|password|ghp_|glpat", read(name))
    assert re.search(r"secrets\.", "${{ secrets.TOKEN }}")  # control


def is_pip_line(line):
    """Whether pip takes a line of a file of requirements, which is what conda makes of those under ``pip:``."""
    if line.startswith("-"):
        return re.fullmatch(r"(-e|--editable) \S+", line) is not None
    return re.match(r"[\w.-]+", line) is not None


def test_the_conda_route_says_to_pip_what_pip_understands():
    (lines,) = (d["pip"] for d in yaml.safe_load(read("environment.yml"))["dependencies"] if isinstance(d, dict))
    assert lines == ["-e ."] and all(map(is_pip_line, lines))
    assert not is_pip_line("--no-deps -e .")  # control: an option of pip install, and not of such a file


def test_hooks_before_a_commit_are_pinned_and_there():
    repositories = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    hooks = {hook["id"]: hook for repository in repositories for hook in repository["hooks"]}
    assert set(hooks) == {"ruff-check", "ruff-format", "nbstripout", "codespell", "check-added-large-files"}
    pinned = re.compile(r"v?\d+\.\d+\.\d+")
    assert all(pinned.fullmatch(repository["rev"]) for repository in repositories)
    assert not pinned.fullmatch("main")  # control
    (limit,) = (int(arg.removeprefix("--maxkb=")) for arg in hooks["check-added-large-files"]["args"])
    assert max(path.stat().st_size for path in (ROOT / "data").glob("*.*")) < 1024 * limit


def unlocked(requirements, lock):
    """Those of some requirements that a lock has no version for, or one that they do not allow."""
    pins = dict(line.split("==") for line in lock.splitlines() if not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    found = map(Requirement, requirements)
    return [r.name for r in found if pins.get(canonicalize_name(r.name), "0") not in r.specifier]


def test_the_lock_has_a_version_of_every_package_that_is_asked_for():
    lock = read(".ci/lock.txt")
    extras = PROJECT["optional-dependencies"]
    asked = [*PROJECT["dependencies"], *extras["test"]]
    assert unlocked(asked, lock) == []
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lock.splitlines()[1:]), "exact, and of no one build"
    assert "--constraint .ci/lock.txt" in read(".ci/run") and "lock.txt" in read(".ci/lock")
    assert unlocked(["torch>=99", "numpy", "no-such-package>=1"], lock) == ["torch", "no-such-package"]  # control


def test_words_are_spelled(tmp_path):
    words = [sys.executable, "-m", "codespell_lib"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    (tmp_path / "a.md").write_text("A network is trained.".replace("two", "tow"))
    found = subprocess.run([*words, "a.md"], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode != 0 and "network" in found.stdout  # control


def test_contributing_is_ten_points_and_names_commands_that_are_there():
    text = read("CONTRIBUTING.md")
    assert re.findall(r"^(\d+)\. ", text, re.MULTILINE) == [str(n) for n in range(1, 11)]
    makefile = read("Makefile")
    (targets,) = re.findall(r"`make ([a-z ]+)`", text)
    assert targets == "lint test" and all(f"\n{target}:" in makefile for target in [*targets.split(), "course"])
    assert "One claim, one control" in text
    for name in ("notebooks/README.md", "tests/test_package.py", "CHANGELOG.md"):
        assert name in text and (ROOT / name).exists()
    how = read("notebooks/README.md")
    for name in ("tests/course/test_shape.py", "dwflow_lite/course/exercises", "benchmarks/week.yaml"):
        assert name in how and (ROOT / name).exists()


def test_the_changelog_has_what_is_to_come_and_every_version():
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == ("Unreleased", "") and ("0.1.0", "2026-11-26") in headings
    assert all(date for _, date in headings[1:])
