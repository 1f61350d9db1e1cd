"""A call of one script, as a value: what is sent, and how its answer reads.

Building and parsing are pure; `Broker` (blocking) and `Multiplexer` (the client's I/O thread) carry it out.
Every command is idempotent under resend, so whoever carries it out may send it again after a lost reply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flashq.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Value = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Command(Generic[T]):
    """`script` names a file in lua/; `key` is the one key that says where in a cluster it runs."""

    script: str
    key: str
    args: tuple[Value, ...]
    parse: Callable[[Any], T]

    def answer(self, reply: Any) -> T:
        """What the broker replied. Raises BrokerError where that cannot be read: anybody may write to a broker."""
        try:
            return self.parse(reply)
        except (ValueError, IndexError, TypeError, AttributeError, ArithmeticError) as error:
            raise BrokerError(f"{self.script} answered what cannot be read: {error!r}") from None


def text(value: bytes | str | int | None) -> str:
    """A reply's field as text; invalid UTF-8 shows as replacement characters, never as an error."""
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def number(value: bytes | str | int | None) -> int:
    """A reply's field as an integer; empty is 0."""
    return int(float(value)) if value else 0


def mapping(flat: list[bytes]) -> dict[str, str]:
    """A flat HGETALL reply as a dict of text."""
    return {text(flat[i]): text(flat[i + 1]) for i in range(0, len(flat), 2)}
