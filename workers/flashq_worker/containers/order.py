"""What a runner is told, and the exit codes and words by which it answers."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

TROUBLE = 75
"""Exit code: the engine could not run the container; elsewhere or later it may."""
UNFIT = 78
"""Exit code: an executor cannot be begun in this image, here or anywhere."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a runner is told, by its standard input."""

    folder: Path
    """Of this container alone: made where it is not there, removed in the end."""
    container: str
    image: str
    engine: str
    """The program."""
    words: tuple[str, ...]
    """The command line that runs the container."""
    given: tuple[int, ...]
    """The executor's descriptors: frames, lifeline, pulse."""
    setup: Mapping[str, Any]
    """For the executor in the container."""
    memory_bytes: int = 0
    port: int = 0
    """Where the image's own server listens in the container; 0: the executor is in the container."""
    executor: tuple[str, ...] = ()
    """The command line of an executor beside such a container."""
    executor_env: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """For the runner's standard input."""
        return json.dumps(
            {name: getattr(self, name) for name in self.__slots__} | {"folder": str(self.folder)}
        )

    @classmethod
    def from_json(cls, text: str) -> Order:
        """Reads `to_json`'s text."""
        fields = json.loads(text)
        return cls(
            **{
                **fields,
                "folder": Path(fields["folder"]),
                "words": tuple(fields["words"]),
                "given": tuple(fields["given"]),
                "executor": tuple(fields["executor"]),
            }
        )


def say(words: str) -> None:
    """To the worker's log, and what people are told of a failure."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()
