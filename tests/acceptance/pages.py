"""Pages of the documentation as tests see them: their fenced blocks, and how each kind is run.

What a fence says after its language decides what a test does with the block:

    ```python               run, in order, with the page's other Python blocks: one script in one process
    ```python file=a.py     written to the page's folder before anything runs (a console block may run it)
    ```python no-run WHY    only parsed: it needs what a test has not (a GPU, a second machine)
    ```text output          what the Python block before it printed
    ```console              run, in order, in one shell on a terminal: `$ command`, then what it shows
    ```console no-run WHY   only parsed; `flashq` commands are checked to be such
    ```json, toml, yaml     parsed

Numbers, ids, times and paths in output stand for any such; `…` stands for anything.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from flashq_worker.host import inventory

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = 150
TIMEOUT_S = 200  # a page has many commands, and a machine may be busy
HOSTNAME = "gpu-box"
HOME = "~/.local/share/flashq"

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)(?: +(?P<words>.*))?$")
_PARTED = "-- next block --"
_STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `line` is that of its opening fence, from 1."""

    language: str
    words: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The name it is to be written under."""
        match = re.match(r"file=(\S+)$", self.words)
        return match[1] if match else None

    @property
    def not_run(self) -> str | None:
        """Why it is not run; None where it is."""
        match = re.match(r"no-run\b *(.*)$", self.words)
        return match[1] if match else None


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a console block, and the lines it is said to show."""

    command: str
    shown: tuple[str, ...]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    opened: re.Match[str] | None = None
    start = 0
    lines: list[str] = []
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if opened is None:
            opened = _FENCE.match(line)
            start, lines = number, []
        elif line.strip() == "```":
            text = "".join(f"{each}\n" for each in lines)
            found.append(Block(opened["language"], (opened["words"] or "").strip(), text, start))
            opened = None
        else:
            lines.append(line.removeprefix(opened["indent"]))
    assert opened is None, f"{page.name}:{start}: this fence is never closed"
    return found


def steps(block: Block) -> list[Step]:
    """The commands of a console block; one that ends with a backslash goes on in the next line."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found and found[-1][0].endswith("\\"):
            found[-1] = (f"{found[-1][0]}\n{line.removeprefix('> ')}", [])
        else:
            assert found, f"line {block.line}: output before the first command"
            found[-1][1].append(line)
    return [Step(command, tuple(shown)) for command, shown in found]


# -- what is shown -----------------------------------------------------------------------------------

_MASKS = (
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<uuid>"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*Z?", "<time>"),
    (r"(?<=-)[0-9a-f]{8}\b|\b[0-9a-f]{12,}\b", "<hex>"),
    (r"\d+ × NVIDIA .*?(?=  )", "–"),  # the GPUs of a machine that has some
    (r"\d+(\.\d+)?(e[-+]?\d+)?", "<n>"),
    (r"<n> (ms|s|min|h)\b", "<duration>"),
)


def shape(line: str) -> str:
    """A line of output without what differs from run to run."""
    for pattern, mask in _MASKS:
        line = re.sub(pattern, mask, line)
    return " ".join(line.split())


def is_like(actual: str, shown: str) -> bool:
    """Whether a line has the shape of the one shown, in which `…` is anything."""
    pattern = ".*".join(re.escape(shape(part)) for part in shown.split("…"))
    return re.fullmatch(pattern, shape(actual)) is not None


def are_like(actual: list[str], shown: list[str]) -> bool:
    """The same of several lines, where a line that is `…` alone stands for any lines."""
    if not shown:
        return not actual
    if shown[0].strip() == "…":
        return any(are_like(actual[skipped:], shown[1:]) for skipped in range(len(actual) + 1))
    return bool(actual) and is_like(actual[0], shown[0]) and are_like(actual[1:], shown[1:])


def compare(where: str, actual: list[str], shown: list[str]) -> None:
    """Fail unless what was printed is like what is shown."""
    told = f"{where}\n--- shown ---\n" + "\n".join(shown) + "\n--- was ---\n" + "\n".join(actual)
    assert are_like(actual, shown), told


# -- running -----------------------------------------------------------------------------------------


def prepare(folder: Path, found: list[Block]) -> dict[str, str]:
    """Write the page's files into `folder`; the variables its processes get: a home and a `flashq` of their own."""
    for block in found:
        if block.file is not None:
            (folder / block.file).write_text(block.text, "utf-8")
    programs = folder / ".programs"
    programs.mkdir()
    for name, command in (("flashq", "-m flashq"), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n', "utf-8")
        program.chmod(0o755)
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("FLASHQ_", "RQ_"))}
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), variables["PATH"]])
    user = folder / "user"
    user.mkdir()
    # What tools find below ~ of whoever runs the tests (caches, indexes of packages) they find all the same.
    shared = {"XDG_CACHE_HOME": ".cache", "XDG_CONFIG_HOME": ".config", "XDG_DATA_HOME": ".local/share"}
    tools = {name: str(Path.home() / place) for name, place in shared.items()}
    home = {"HOME": str(user), "FLASHQ_HOME": str(folder / "h"), "PYTHONPATH": str(ROOT)}
    plain = {"NO_COLOR": "1", "TERM": "xterm", "COLUMNS": str(COLUMNS)}
    return {**tools, **variables, **home, **plain, "PATH": path}


def run_python(folder: Path, found: list[Block], environ: dict[str, str]) -> None:
    """Run the page's Python blocks as one script, and compare what they print with what is shown."""
    parts: list[str] = []
    shown: list[list[str] | None] = []
    for block in found:
        if block.language == "python" and block.file is None and block.not_run is None:
            parts.append(f"\nprint({_PARTED!r}, flush=True)  # line {block.line}\n{block.text}")
            shown.append(None)
        elif block.language == "text" and block.words == "output":
            assert shown, f"line {block.line}: output before the first block"
            shown[-1] = block.text.splitlines()
    if not parts:
        return
    (folder / "page.py").write_text("".join(parts), "utf-8")
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    printed = [part.splitlines() for part in done.stdout.split(f"{_PARTED}\n")[1:]]
    assert len(printed) == len(shown), done.stdout
    for real, expected in zip(printed, shown, strict=True):
        if expected is not None:
            compare("page.py", real, expected)


def run_console(folder: Path, commands: list[Step], environ: dict[str, str]) -> None:
    """Run the page's commands in one shell whose output is a terminal, and compare what they show."""
    (folder / "page.sh").write_text(
        "".join(f"{step.command}\necho '{_PARTED}'\n" for step in commands), "utf-8"
    )
    said = _on_terminal(["bash", "page.sh"], folder, environ)
    said = re.sub(
        rf"\b{re.escape(inventory.hostname())}\b", HOSTNAME, said.replace(environ["FLASHQ_HOME"], HOME)
    )
    parts = [part.splitlines() for part in said.split(f"{_PARTED}\n")]
    assert len(parts) == len(commands) + 1, said
    for step, real in zip(commands, parts, strict=False):
        compare(f"$ {step.command}", [line.rstrip() for line in real], list(step.shown))


def _on_terminal(command: list[str], folder: Path, environ: dict[str, str]) -> str:
    """What a command prints where its output is a terminal."""
    ours, theirs = pty.openpty()
    pieces: list[bytes] = []

    def read() -> None:
        try:
            while piece := os.read(ours, 65536):
                pieces.append(piece)
        except OSError:  # how a terminal ends on Linux
            return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"it has not ended: {b''.join(pieces).decode('utf-8', 'replace')}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    reader.join(5)
    os.close(ours)
    return _STYLE.sub("", b"".join(pieces).decode("utf-8", "replace").replace("\r\n", "\n"))
