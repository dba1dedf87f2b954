"""`python -m dwflow_lite run` executes the course; `python -m dwflow_lite check` looks at this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, do it, return the exit code (2 for bad usage)."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "check":
            from dwflow_lite.course.check import main as check

            return check()
        return _run(options)
    except (ImportError, FileNotFoundError) as error:
        print(f"error: {error}\n'make check' says what this machine lacks.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dwflow_lite", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="versions, device, memory, kernel and data of this machine")
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
    return parser


def _run(options: argparse.Namespace) -> int:
    """The command `run`; it imports more than `check` may count on."""
    import yaml

    from dwflow_lite.course.lessons import UsageError
    from dwflow_lite.course.run import run

    try:
        parameters = {name: yaml.safe_load(value) for name, value in options.parameters}
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
    except (UsageError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
