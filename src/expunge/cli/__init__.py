"""The command line: ``expunge COMMAND``; one file per command, its help is made from its docstrings."""

import ast
import importlib
import json
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

COMMANDS = (
    *("demo", "train", "prune", "import", "precompute", "mask", "unlearn", "evaluate", "score", "export"),
    *("bench", "tune", "report", "doctor", "list", "data"),
)

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted."""
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    if not given or given[0] in ("-h", "--help", "help"):
        print(_help())
        return DONE if given else WRONG
    if given[0] in ("-V", "--version"):
        return _version()
    if given[0] not in COMMANDS:
        return _complain(_unknown(given[0]), given, WRONG)
    return _guarded(given[0], given[1:])


def _guarded(command: str, rest: list[str]) -> int:
    """Run a command; what goes wrong becomes one message and the right exit status."""
    from expunge.core.errors import RequestError, RunError  # noqa: PLC0415 - --help does not wait for it

    try:
        return importlib.import_module(f"expunge.cli.{command}").run(rest)
    except RequestError as error:
        return _complain(str(error), rest, WRONG)
    except RunError as error:
        return _complain(str(error), rest, FAILED)
    except BrokenPipeError:  # the reader of the output has closed the pipe
        sys.stdout = None
        return DONE
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        cure = "finished runs are kept; make room or choose another folder, and run the same command again"
        return _complain(f"{error.strerror or error}{place}: {cure}", rest, FAILED)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return _complain("interrupted; finished runs are kept: run the same command to continue", rest, INTERRUPTED)


def _complain(message: str, rest: Sequence[str], status: int) -> int:
    if "--json" in rest:
        print(json.dumps({"error": message, "status": status}))
    print(f"expunge: {message}", file=sys.stderr)
    return status


def _unknown(name: str) -> str:
    from expunge.core.registry import unknown  # noqa: PLC0415 - --help does not wait for it

    return unknown("command", name, COMMANDS)


def _version() -> int:
    from importlib.metadata import version  # noqa: PLC0415 - --help does not wait for it

    print(f"expunge {version('expunge')}")
    return DONE


def _help() -> str:
    """The commands, each with the first line of its file's docstring: nothing is imported for it."""
    lines = [f"  {command:10} {_summary(command)}" for command in COMMANDS]
    return "\n".join(
        [
            "usage: expunge COMMAND [options]      expunge COMMAND --help",
            "",
            "Make a trained image classifier forget chosen training examples, and prove how well it did.",
            "",
            "commands:",
            *lines,
            "",
            "Begin with: expunge demo",
        ]
    )


def _summary(command: str) -> str:
    spec = find_spec(f"expunge.cli.{command}")
    source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else '""'
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
