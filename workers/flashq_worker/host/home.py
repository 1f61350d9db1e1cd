"""What a host agent keeps on disk: the host's name, the lock that makes it the only one, the newest leader's
epoch, workers' logs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from typing import TYPE_CHECKING

from flashq.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOG_LIMIT_BYTES = 32 * 2**20
"""A worker's log is emptied when it is longer: a job that prints for ever does not fill the disk."""
LOGS_KEPT = 200
_WORKER_LOGS = f"*-{'-'.join('?' * n for n in (8, 4, 4, 4, 12))}.log"  # a worker's id ends with a UUID


class HostHome:
    """The folder (FLASHQ_HOME) of one host agent. Its own files can be read by their owner alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self._epoch = folder / "leader-epoch"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only host agent of this folder. Raises SettingsError where there is one."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.logs.mkdir(exist_ok=True, mode=0o700)
        descriptor = os.open(self.folder / "host.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "?"
                raise SettingsError(
                    f"a host agent (process {holder}) runs on {self.folder} already; give another FLASHQ_HOME"
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def host_id(self, hostname: str) -> str:
        """`<hostname>-<8 hex digits>`; the digits are this folder's, made on first use. Needs the lock."""
        file = self.folder / "host-id"
        with contextlib.suppress(FileNotFoundError):
            digits = file.read_text("ascii").strip()
            if re.fullmatch("[0-9a-f]{8}", digits):
                return f"{hostname}-{digits}"
        digits = secrets.token_hex(4)
        fresh = file.with_suffix(".new")
        fresh.write_text(digits + "\n", "ascii")
        fresh.replace(file)
        return f"{hostname}-{digits}"

    def epoch(self) -> int:
        """The newest epoch that a command was given under; 0 where there was none."""
        try:
            return int(self._epoch.read_text("ascii"))
        except (FileNotFoundError, ValueError):
            return 0

    def keep_epoch(self, epoch: int) -> None:
        """Remember it for the next host agent here. Raises OSError."""
        fresh = self._epoch.with_suffix(".new")
        fresh.write_text(f"{epoch}\n", "ascii")
        fresh.replace(self._epoch)

    def log_file(self, worker: str) -> Path:
        """Where a worker's output goes."""
        return self.logs / f"{worker}.log"

    def tail(self, worker: str, lines: int = 12, most_bytes: int = 4096) -> str:
        """The last lines of a worker's log; empty where there are none."""
        try:
            with self.log_file(worker).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - most_bytes))
                text = log.read(most_bytes).decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def tidy_logs(self, running: frozenset[str]) -> None:
        """Empty what has grown too long, and keep the newest `LOGS_KEPT` logs of workers that ended."""
        ended: list[tuple[float, Path]] = []
        for file in self.logs.glob(_WORKER_LOGS):
            with contextlib.suppress(OSError):
                status = file.stat()
                if status.st_size > LOG_LIMIT_BYTES:
                    os.truncate(file, 0)
                if file.stem not in running:
                    ended.append((status.st_mtime, file))
        for _, file in sorted(ended)[:-LOGS_KEPT]:
            file.unlink(missing_ok=True)
