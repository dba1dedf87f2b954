"""`python -m dwflow_lite`: run executes the course, player makes its player alone, check looks at this machine, student
and grade serve a class."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# "-1e-3" and "-.inf" look like options to argparse, unless a blank stands before them; YAML takes it away again.
NEGATIVE = re.compile(r"-\.?\d.*|-\.?inf", re.IGNORECASE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, do it, return the exit code (2 for bad usage)."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args([f" {word}" if NEGATIVE.fullmatch(word) else word for word in words])
    try:
        if options.command == "check":
            from dwflow_lite.course.check import main as check

            return check()
        return COMMANDS[options.command](options)
    except (ImportError, FileNotFoundError) as error:
        _complain(f"{error}\n'make check' says what this machine lacks.")
        return 2
    except KeyboardInterrupt:
        return 130


def _complain(sentence: str) -> None:
    """Say what is wrong; where nobody can hear it, the exit code has to do."""
    with suppress(OSError, ValueError):
        print(f"error: {sentence}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dwflow_lite", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="versions, device, memory, kernel and data of this machine")
    player = commands.add_parser("player", help="write the player, a page to open in a browser (about twenty seconds)")
    player.add_argument("page", metavar="PAGE.html", help="where it goes")
    player.add_argument("--small", action="store_true", help="a small one, for tests")
    player.add_argument("--made", default="", help=argparse.SUPPRESS)
    run = commands.add_parser("run", help="execute the notebooks and write pages and a report")
    run.add_argument("--profile", default="laptop", help="smoke, laptop (default) or gpu: see notebooks/profiles.yaml")
    run.add_argument("--out", default="build", metavar="FOLDER", help="where results go (default: build)")
    run.add_argument("--notebooks", nargs="+", default=[], metavar="NN", help="numbers or names; default: all")
    run.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        dest="parameters",
        metavar=("NAME", "VALUE"),
        help="set a parameter in every selected notebook; VALUE is read as YAML",
    )
    run.add_argument("--force", action="store_true", help="run also what has a valid result")
    run.add_argument("--cell-timeout", type=float, default=900, metavar="SECONDS")
    run.add_argument("--notebook-timeout", type=float, default=1800, metavar="SECONDS")
    run.add_argument("--source", default=None, metavar="FOLDER", help="notebooks to run (default: the course's)")
    student = commands.add_parser("student", help="write the student's copy: all notebooks without hints and solutions")
    student.add_argument("out", metavar="OUT", help="a new or empty folder")
    grade = commands.add_parser("grade", help="read the scores of a class: a folder with one folder for each student")
    grade.add_argument("folder", metavar="FOLDER", help="the class; grades.csv is written into it")
    grade.add_argument("--notebooks", nargs="+", default=[], metavar="NN", help="numbers or names; default: all")
    grade.add_argument("--rerun", action="store_true", help="do not trust score files: RUN THE STUDENTS' CODE here")
    grade.add_argument("--cell-timeout", type=float, default=60, metavar="SECONDS", help="of --rerun")
    return parser


def _player(options: argparse.Namespace) -> int:
    """The command `player`."""
    from dwflow_lite.course.player.page import write_player
    from dwflow_lite.course.player.trajectories import SMOKE

    try:
        write_player(Path(options.page), SMOKE if options.small else None, options.made)
    except OSError as error:
        _complain(str(error))
        return 2
    return 0


def _run(options: argparse.Namespace) -> int:
    """The command `run`; it imports more than `check` may count on."""
    from dwflow_lite.course.parameters import UsageError, from_yaml
    from dwflow_lite.course.run import run

    try:
        parameters = {name: from_yaml(name, value) for name, value in options.parameters}
        return run(
            options.out,
            options.profile,
            options.notebooks,
            parameters,
            source=options.source,
            force=options.force,
            cell_timeout=options.cell_timeout,
            notebook_timeout=options.notebook_timeout,
        )
    except UsageError as error:
        _complain(str(error))
        return 2


def _student(options: argparse.Namespace) -> int:
    """The command `student`."""
    from dwflow_lite.course.classroom.copying import write_copy
    from dwflow_lite.course.parameters import UsageError

    try:
        print(write_copy(options.out))
    except UsageError as error:
        _complain(str(error))
        return 2
    return 0


def _grade(options: argparse.Namespace) -> int:
    """The command `grade`."""
    from dwflow_lite.course.classroom.grading import grade
    from dwflow_lite.course.parameters import UsageError

    try:
        return grade(options.folder, options.notebooks, again=options.rerun, cell_timeout=options.cell_timeout)
    except UsageError as error:
        _complain(str(error))
        return 2


COMMANDS = {"run": _run, "player": _player, "student": _student, "grade": _grade}


def _open_closed_streams() -> None:
    """Give descriptors 0, 1 and 2 a place to go if they came closed: the next file opened would take their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # a kernel needs them too


def _let_go_of_streams() -> None:
    """Flush what was printed; where that fails, nothing may be left to fail when Python ends (which would exit 120)."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    # jsonschema, which nbformat imports, would take more than a second to compile the grammar of a kind of address that
    # no notebook has; it does without where that grammar cannot be imported.
    sys.modules.setdefault("rfc3987_syntax", None)
    _open_closed_streams()
    code = main()
    _let_go_of_streams()
    sys.exit(code)
