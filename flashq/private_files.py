"""Files that only their owner may read: read with that checked, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LONGEST = 64 * 1024


def read_private(file: Path) -> bytes:
    """What a file that only its owner may use holds, at most 64 KiB.

    Raises FileNotFoundError; ValueError where others may use it, it is no regular file, or it cannot be read.
    """
    try:
        # Without O_NONBLOCK opening a pipe would wait for its writer.
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{file} is not a regular file")
            if status.st_mode & 0o077:
                raise ValueError(f"others than its owner may use {file}: chmod 600 {file}")
            return stream.read(_LONGEST)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None


def make_private(folder: Path) -> None:
    """Keep others out of a folder. Raises OSError where it is not ours, or is no folder but a link to one."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(0, "is not a folder of this user", str(folder))
    if status.st_mode & 0o077:
        folder.chmod(0o700)


def write_private(file: Path, content: bytes) -> None:
    """Put `content` into a file only its owner can read, whole or not at all. Raises OSError naming it."""
    _written(file, content, lambda temporary: temporary.replace(file))


def new_private(file: Path, content: bytes) -> None:
    """Like `write_private`, where there is no such file yet. Raises FileExistsError, other OSError."""
    _written(file, content, lambda temporary: file.hardlink_to(temporary))


def _written(file: Path, content: bytes, placed: Callable[[Path], object]) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        placed(temporary)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
