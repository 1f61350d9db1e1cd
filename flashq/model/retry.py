"""Whether a job whose function raised is run again, and when: decided as a value.

Only exceptions that the user's function raised are judged here. A lost worker spends another budget, in the
broker; a timeout, a cancel, a result that cannot be pickled or code that cannot be loaded would only repeat.
Pure, standard library only: the random fraction that spreads retries is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from flashq.errors import SpecError
from flashq.model.checks import flag, kind, nearest, number, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_RETRIES = 100
#: Runs that may end without an outcome (their worker was lost) before a job fails for good, unless told otherwise.
MAX_DELIVERIES = 3
#: The delivery mode of what may begin only once, neither retried nor delivered again.
AT_MOST_ONCE = "at_most_once"
_LONGEST_S = 7 * 86_400
#: The `kind` of an executor's error (flashq_worker/executor/frames.py) that a retry may help.
RETRYABLE_KIND = "exception"


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, when and after which exceptions a function is run again.

    The n-th retry (from 1) waits a random time of at most `delay_s * backoff ** (n - 1)` seconds, never more
    than `max_delay_s`; with `jitter=False` exactly as long. `delay_s=0` retries at once. `on` limits it to these
    exception types and their subclasses, `never` excepts some: types, or names for those that are not installed
    here ("TimeoutError", "requests.exceptions.HTTPError"). Empty, `on` means all of them.
    Raises `SpecError` naming the field that is wrong.
    """

    max: int = 0
    """Re-executions after the first run: `max=2` is at most three runs."""
    delay_s: float = 1.0
    backoff: float = 2.0
    max_delay_s: float = 600
    on: tuple[str | type[BaseException], ...] = ()
    """Kept as `exception_name`s, whatever was given."""
    never: tuple[str | type[BaseException], ...] = ()
    """The same. An exception of both is not retried."""
    jitter: bool = True

    def __post_init__(self) -> None:
        for name, check in _FIELDS.items():
            given = getattr(self, name)
            try:
                object.__setattr__(self, name, check(given))
            except ValueError as error:
                raise SpecError(name, str(error), value=given, where="Retries") from None

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe; `Retries(**as_dict())` gives an equal value. What came later is said only where it is used."""
        later = {"never": list(self.never)} if self.never else {}
        plain = {name: value for name, value in asdict(self).items() if name not in ("never", "jitter")}
        return {**plain, "on": list(self.on), **later, **({} if self.jitter else {"jitter": False})}


def _exception_names(value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list | tuple) else (value,)
    return tuple(dict.fromkeys(_exception_name(item) for item in items))


def _exception_name(item: object) -> str:
    if isinstance(item, type) and issubclass(item, BaseException):
        return exception_name(item)
    if isinstance(item, str) and item and all(part.isidentifier() for part in item.split(".")):
        return item.removeprefix("builtins.")
    raise ValueError(f"must hold exception types or their names, not {kind(item)}")


_FIELDS = {
    "max": lambda value: whole(value, minimum=0, maximum=MAX_RETRIES, unit="retries"),
    "delay_s": lambda value: number(value, minimum=0, maximum=_LONGEST_S, unit="seconds"),
    "backoff": lambda value: number(value, minimum=1, maximum=100),
    "max_delay_s": lambda value: number(value, minimum=0, maximum=_LONGEST_S, unit="seconds"),
    "on": _exception_names,
    "never": _exception_names,
    "jitter": flag,
}


def parse_retries(value: object) -> Retries:
    """Read `retries=`: a number of re-executions, a `Retries`, or a dict of its fields; else `ValueError`."""
    if isinstance(value, Retries):
        return value
    if value is None:
        return Retries()
    if isinstance(value, Mapping):
        known = [field.name for field in fields(Retries)]
        for name in value:
            if name not in known:
                hint = nearest(str(name), known)
                raise ValueError(f"has no field {name!r}{hint}; its fields are {', '.join(known)}")
        return Retries(**value)
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"must be a number of retries, a Retries or a dict of its fields, not {kind(value)}")
    return Retries(whole(value, minimum=0, maximum=MAX_RETRIES, unit="retries"))


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """Run the job again, `delay_s` seconds from now."""

    delay_s: float
    longest_s: float
    """The delay lies in [0, longest_s]."""
    retry: int
    """Which retry this is, from 1."""
    reason: str


def retry_decision(
    policy: Retries, *, error_kind: str, type_names: Sequence[str], retries_used: int, fraction: float
) -> RetryDecision | None:
    """Decide on a job whose last run failed; None means the failure is final.

    `error_kind` is the executor's word for what went wrong. `type_names` are `exception_name`s of the
    exception's class and its bases, nearest first. `fraction` in [0, 1] places the delay in its range (full
    jitter: 0 is at once, 1 the longest); many jobs that fail at one moment are spread by drawing it at random.
    """
    if error_kind != RETRYABLE_KIND or retries_used >= policy.max:
        return None
    matched = _matched(policy.on, type_names) if policy.on else next(iter(type_names), "an exception")
    if matched is None or _matched(policy.never, type_names) is not None:
        return None
    retry = retries_used + 1
    longest_s = _longest_delay(policy, retry)
    return RetryDecision(
        delay_s=longest_s * min(max(fraction, 0.0), 1.0) if policy.jitter else longest_s,
        longest_s=longest_s,
        retry=retry,
        reason=f"retry {retry} of {policy.max} after {matched}",
    )


def exception_name(cls: type) -> str:
    """The name policies match on: `module.Qualname`, for builtins the name alone."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _matched(listed: Sequence[object], type_names: Sequence[str]) -> str | None:
    """The name of the exception, or of a base of it, that is listed; None where none is."""
    for name in type_names:
        if name in listed or name.rpartition(".")[2] in listed:
            return name
    return None


def _longest_delay(policy: Retries, retry: int) -> float:
    # The bounds of the fields keep this far below what a float can hold.
    return float(min(policy.delay_s * policy.backoff ** (retry - 1), policy.max_delay_s))
