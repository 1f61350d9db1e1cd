"""`python -m flashq.compat script.py`: run a program written for `runpod_flash`, as `python script.py` would."""

from __future__ import annotations

import argparse
import io
import runpy
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING

from flashq.compat import Choices, install, variables
from flashq.errors import FlashqError

if TYPE_CHECKING:
    from collections.abc import Sequence

_WRONG_USAGE = 2
_EXAMPLE = "Example: python -m flashq.compat --volume models=/mnt/models gpu_worker.py"


def main(words: Sequence[str]) -> None:
    """Run the program; what it raises is shown as Python does."""
    parser = argparse.ArgumentParser(
        prog="python -m flashq.compat",
        description="Run a program written for runpod_flash on your own hosts.",
        epilog=_EXAMPLE,
        usage="%(prog)s [--exact] [--volume NAME=FOLDER] [--with PACKAGE] (script.py | -m module) [argument ...]",
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="wait for hosts with the GPU models and CPU sizes that are named, and with the label datacenter=NAME",
    )
    parser.add_argument(
        "--volume",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="the folder on the hosts that a network volume is; by default /runpod-volume",
    )
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        dest="packages",
        metavar="PACKAGE",
        help="a dependency of every endpoint with GPUs, as torch is in Flash's image",
    )
    parser.add_argument("-m", dest="module", action="store_true", help="run a module by its name")
    parser.add_argument("program", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    volumes = dict(each.partition("=")[::2] for each in given.volume)
    if wrong := [name for name, folder in volumes.items() if not (name and folder.startswith("/"))]:
        parser.error(f"--volume {wrong[0]}: wants NAME=FOLDER with an absolute folder")
    try:
        variables.load(Path.cwd())
        install(Choices(exact=given.exact, volumes=volumes, packages=tuple(given.packages)))
        sys.argv = [given.program, *given.arguments]
        if given.module:
            runpy.run_module(given.program, run_name="__main__", alter_sys=True)
        else:
            run_script(given.program)
    except Exception as error:  # noqa: BLE001 -- whatever the program raises
        _show(error)


def run_script(name: str) -> None:
    """Run a file as the main program: it is `__main__` from now on, also when functions of it are looked at later."""
    try:
        file = str(Path(name).absolute())
        with io.open_code(file) as opened:
            source = opened.read()
    except OSError as error:
        sys.stderr.write(f"flashq: can't open {name!r}: {error.strerror}\n")
        sys.exit(_WRONG_USAGE)
    if not sys.flags.safe_path:  # else the first is no folder of this program's
        sys.path[0] = str(Path(name).resolve().parent)
    module = types.ModuleType("__main__")
    module.__file__ = file
    vars(module)["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    exec(compile(source, file, "exec"), vars(module))  # noqa: S102 -- that is what it is for


def _show(error: Exception) -> None:
    """Print a traceback that begins in the program, and end as Python does."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and _ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    if isinstance(error, FlashqError) and trace is not None and _ours(trace.tb_frame.f_code.co_filename):
        sys.stderr.write(f"flashq: {error}\n")
        sys.exit(_WRONG_USAGE)
    error.__traceback__ = trace
    sys.excepthook(type(error), error, trace)
    sys.exit(1)


def _ours(file: str) -> bool:
    return file in (__file__, runpy.__file__) or file.startswith("<frozen runpy")


if __name__ == "__main__":
    main(sys.argv[1:])
