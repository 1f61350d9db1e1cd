"""Where the private broker's files are, and who may use them: one set per user and FLASHQ_HOME.

    <home>/secret.key        signing key                      broker.password  of a broker that listens
    <home>/broker/           the broker's data                logs/            what keeper, broker, … print
    <home>/run/join.lock     held while joining or starting   run/keeper.lock  held while a stack lives
    <home>/run/keeper.json   where the keeper answers         run/*.sock       control and broker
    <home>/run/problem.txt   why a stack that `flashq up` kept has ended

The sockets move to a short private folder elsewhere where the home's path is too long for one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flashq.errors import BrokerError, SettingsError
from flashq.private_files import make_private

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET_PATH_LIMIT = 107 if sys.platform == "linux" else 103
"""Bytes that the path of a unix socket may have."""
_LONGEST_NAME = "starting.sock"
_KEEP_LOG_BYTES = 4 * 2**20


class Places:
    """Paths below one home; `prepare` makes the folders."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.run = home / "run"
        self.data = home / "broker"
        self.logs = home / "logs"
        self.secret = home / "secret.key"
        self.password = home / "broker.password"
        self.join_lock = self.run / "join.lock"
        self.keeper_lock = self.run / "keeper.lock"
        self.record = self.run / "keeper.json"
        self.problem = self.run / "problem.txt"

    def prepare(self) -> Places:
        """Make what is missing, for the user alone. Raises SettingsError where that cannot be."""
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.run, self.data, self.logs):
                folder.mkdir(mode=0o700, exist_ok=True)
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise PermissionError(0, "no permission to write", str(folder))
                make_private(folder)
        except OSError as error:
            where = error.filename or self.home
            raise SettingsError(
                f"cannot keep state in {self.home} ({where}: {error.strerror}); set FLASHQ_HOME to a folder"
                " that can be written"
            ) from None
        return self

    def last_problem(self) -> str:
        """Why what `flashq up` kept running has ended; empty where it was ended in order, or runs again."""
        try:
            return self.problem.read_text("utf-8")
        except OSError:
            return ""

    def log(self, name: str) -> Path:
        """A log file, begun anew when it has become long."""
        file = self.logs / f"{name}.log"
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_size > _KEEP_LOG_BYTES:
                file.replace(file.with_suffix(".log.1"))
        return file

    def sockets(self) -> Path:
        """A folder only this user can enter, short enough for the paths of sockets.

        Raises SettingsError where there is none.
        """
        if _fits(self.run):
            return self.run
        import hashlib
        import tempfile

        import platformdirs

        name = f"flashq-{os.getuid()}-{hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]}"
        for parent in (platformdirs.user_runtime_path(), Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 — made private
            folder = parent / name
            if not parent.is_dir() or not _fits(folder):
                continue
            with contextlib.suppress(OSError):
                folder.mkdir(mode=0o700, exist_ok=True)
                make_private(folder)
                return folder
        raise SettingsError(f"the path of FLASHQ_HOME is too long for sockets: {self.home}")


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / _LONGEST_NAME)) <= SOCKET_PATH_LIMIT


@contextlib.contextmanager
def locked(file: Path, timeout_s: float) -> Iterator[None]:
    """Hold an exclusive lock on `file`; the kernel frees it when this process dies, however it does.

    Raises: BrokerError where another process still holds it after `timeout_s`; SettingsError where the file
    cannot be made.
    """
    lock = open_lock(file)
    try:
        deadline = time.monotonic() + timeout_s
        while not try_lock(lock):
            if time.monotonic() > deadline:
                raise BrokerError(f"another process has held {file} for {timeout_s:.0f} s")
            time.sleep(0.01)
        try:
            yield
        finally:
            # Not by closing alone: a child forked meanwhile has this descriptor too.
            fcntl.flock(lock, fcntl.LOCK_UN)
    finally:
        os.close(lock)


def open_lock(file: Path) -> int:
    """A descriptor of a lock file. Raises SettingsError where it cannot be made."""
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"cannot open {file}: {error.strerror}") from None


def try_lock(lock: int) -> bool:
    """Take the lock if nobody has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
