"""The rule of each `Endpoint(...)` and `with_options(...)` parameter: what it takes, and its canonical form.

A rule returns the value in the form that specs keep, or raises `ValueError` with what is allowed:
`Unsupported` where the value makes sense and this version cannot honour it. Pure.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from flashq.model.checks import flag, kind, nearest, number, text, whole
from flashq.model.resources import CpuRequest, GpuRequest, ServerlessScalerType, parse_cpu, parse_gpu

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
MAX_NAME = 64
_CUDA_VERSION = re.compile(r"[1-9][0-9]?\.[0-9]")
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
"""Of the characters that names, registries, tags and digests have; never an option."""
MIN_PRIORITY, MAX_PRIORITY = -9, 9
NESTED_PRIORITY = 10
UNHURRIED_PRIORITY = -10
"""Of calls for which no worker is started: they take their turn behind all others."""
"""Of calls from inside jobs, and of no others: jobs that wait for them hold their places."""
MAX_WORKERS = 10_000
MAX_CONCURRENCY = 1_000
MAX_GPUS = 128
LONGEST_S = 30 * 86_400
MOST_DELIVERIES = 100
MOST_QUEUED = 1_000_000_000

#: Parameters whose value no message may show.
SECRET = frozenset({"env"})

#: Names that are no parameters, though people look for them, and what to do instead.
DECLINED = {
    "cron": "flashq runs nothing on a schedule yet; call the endpoint from cron or a systemd timer",
    "schedule": "flashq runs nothing on a schedule yet; call the endpoint from cron or a systemd timer",
    "depends_on": "jobs cannot wait for other jobs yet; await the first and pass its value to the next",
}


class Unsupported(ValueError):
    """A valid value that this version cannot honour."""


def unsupported(reason: str, *, unset: tuple[object, ...] = (None,)) -> Callable[[object], Any]:
    """The rule of a parameter that is not built yet: default and empty values pass, others are refused."""

    def rule(value: object) -> Any:
        if any(value is default or (value == default and type(value) is type(default)) for default in unset):
            return unset[0]
        raise Unsupported(reason)

    return rule


def name(value: object) -> str | None:
    """An endpoint's name, also its queue's in the broker; None until the decorator has seen the function."""
    if value is None:
        return None
    given = text(value, maximum=MAX_NAME)
    if "--" in given:
        raise ValueError("must not contain '--', which separates an endpoint's queues")
    if not NAME_PATTERN.fullmatch(given):
        raise ValueError("must be letters, digits, '_' and '-' (ASCII), and begin with a letter or digit")
    return given


def gpu(value: object) -> GpuRequest | None:
    """See `parse_gpu`; None only beside `cpu`."""
    return None if value is None else parse_gpu(value)


def cpu(value: object) -> CpuRequest | None:
    """See `parse_cpu`; None means a GPU worker."""
    return None if value is None else parse_cpu(value)


def image(value: object) -> str | None:
    """The container image that functions run in, as an engine's command line takes it; None: no container."""
    if value is None:
        return None
    given = text(value, maximum=400)
    if not IMAGE.fullmatch(given):
        raise ValueError("must name an image, such as 'pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime'")
    return given


def gpu_count(value: object) -> int:
    """GPUs that each worker holds."""
    return whole(value, minimum=1, maximum=MAX_GPUS)


def min_cuda_version(value: object) -> str | None:
    """The oldest CUDA that a host's driver must be able to run, as "12.4"; None: any."""
    if value is None:
        return None
    given = text(value, maximum=8)
    if not _CUDA_VERSION.fullmatch(given):
        raise ValueError(f"must be a version such as '12.4', not {given!r}")
    return given


def workers(value: object) -> tuple[int, int]:
    """(min, max), or an int n for (0, n)."""
    if value is None:
        return (0, 1)
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise ValueError(f"must be a maximum or a pair (min, max); it has {len(value)} parts")
        low = whole(value[0], minimum=0, maximum=MAX_WORKERS, unit="workers (the min)")
        high = whole(value[1], minimum=1, maximum=MAX_WORKERS, unit="workers (the max)")
        if low > high:
            raise ValueError(f"min ({low}) must not be above max ({high})")
        return (low, high)
    return (0, whole(value, minimum=1, maximum=MAX_WORKERS, unit="workers"))


def idle_timeout(value: object) -> float:
    """Seconds that a worker above min stays without a job."""
    return number(value, minimum=0, maximum=LONGEST_S, unit="seconds")


def buffer(value: object) -> int:
    """Workers kept ready beside the busy ones, while there is anything to do."""
    return whole(value, minimum=0, maximum=MAX_WORKERS, unit="workers")


def dependencies(value: object) -> tuple[str, ...]:
    """Requirements (PEP 508) for packages of the host's index, normalised, sorted and without repeats."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list of requirements such as ['numpy>=2', 'torch'], not {kind(value)}")
    return tuple(sorted({_requirement(item) for item in value}))


_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_VCS = ("git+", "hg+", "svn+", "bzr+")


def _requirement(item: object) -> str:
    if not isinstance(item, str):
        raise ValueError(f"must hold requirement strings, not {kind(item)}")
    given = item.strip()
    if given.startswith("-"):
        raise ValueError(
            f"{item!r} is an installer option; options and indexes are set by the hosts' own uv configuration"
        )
    if given.startswith(_VCS) or "://" in given:
        raise ValueError(f"{item!r} is a URL; only packages of the hosts' index can be named (name>=version)")
    if given.startswith((".", "/", "~")) or "\\" in given or given.endswith(_ARCHIVES):
        raise ValueError(f"{item!r} is a path on this machine; the hosts do not have it")
    from packaging.requirements import InvalidRequirement, Requirement  # only where there are dependencies
    from packaging.utils import canonicalize_name

    try:
        requirement = Requirement(given)
    except InvalidRequirement as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{item!r} is not a requirement such as 'numpy>=2': {reason}") from None
    if requirement.url is not None:
        raise ValueError(
            f"{item!r} names a URL; only packages of the hosts' index can be named (name>=version)"
        )
    extras = ",".join(sorted(canonicalize_name(extra) for extra in requirement.extras))
    marker = f"; {requirement.marker}" if requirement.marker else ""
    packages = canonicalize_name(requirement.name) + (f"[{extras}]" if extras else "")
    return f"{packages}{requirement.specifier}{marker}"


SYSTEM_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,127}")
"""A package's name, to dpkg and rpm: no version, no architecture, no option."""
_LONGEST_PATH = 1024


def system_dependencies(value: object) -> tuple[str, ...]:
    """Names of system packages that a host has to have, sorted and without repeats. They are not installed."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list of package names such as ['ffmpeg'], not {kind(value)}")
    for item in value:
        if not isinstance(item, str):
            raise ValueError(f"must hold names of packages, not {kind(item)}")
        if not SYSTEM_PACKAGE.fullmatch(item):
            raise ValueError(
                f"{item!r} is not a package's name such as 'ffmpeg' (no version, option or path): letters, digits,"
                " '+', '.', '_' and '-', at most 128"
            )
    return tuple(sorted(set(value)))


def volume(value: object) -> str | None:
    """A folder that is at this place on each host that may run the endpoint: of its own disk, or a mounted share."""
    if value is None or value == []:
        return None
    if not isinstance(value, str):
        raise ValueError(
            f"must be the path of a folder on the hosts, such as '/mnt/models', not {kind(value)}"
        )
    if "://" in value or re.match(r"[^/]+:", value):
        raise ValueError(
            "must be a path on the hosts; mount a share there, and give the place where it is mounted"
        )
    if not value.startswith("/"):
        raise ValueError("must be an absolute path on the hosts, such as '/mnt/models'")
    if len(value) > _LONGEST_PATH or not value.isprintable():
        raise ValueError(f"must be at most {_LONGEST_PATH} printable characters")
    parts = [part for part in value.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise ValueError("must name a folder below '/', without '..'")
    return "/" + "/".join(parts)


LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}(=[A-Za-z0-9._/-]{0,63})?")
"""A label of a host: a word, or NAME=VALUE."""


def label(value: object) -> str:
    """One label of a host."""
    if not isinstance(value, str) or not LABEL.fullmatch(value):
        given = repr(value) if isinstance(value, str) else kind(value)
        raise ValueError(
            f"{given} is no label such as 'zone=eu' (letters, digits, '.', '_', '/' and '-', at most 63)"
        )
    return value


def hosts(value: object) -> tuple[str, ...]:
    """Labels that a host has to have, all of them: a label, a list of them, or a dict of names and values."""
    if value is None:
        return ()
    if isinstance(value, Mapping):
        value = [f"{name}={content}" for name, content in value.items()]
    given = [value] if isinstance(value, str) and value else value or []
    if not isinstance(given, list | tuple):
        raise ValueError(f"must be a label such as 'zone=eu', a list of labels or a dict, not {kind(value)}")
    return tuple(sorted({label(one) for one in given}))


def datacenter(value: object) -> tuple[str, ...]:
    """Names of which a host has to have one, as its label datacenter=NAME; an enum's member stands for its value."""
    if value is None:
        return ()
    given = value if isinstance(value, list | tuple) else [value]
    names = [one.value if isinstance(one, Enum) else one for one in given]
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"must be a name such as 'EU-RO-1', or a list of names, not {kind(value)}")
    return tuple(sorted({label(f"datacenter={name}").partition("=")[2] for name in names}))


_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS = ("FLASHQ_", "REDIS_", "RQ_")
# Set by the worker for each job's process: a GPU is bound by them, or the interpreter started.
_BOUND = frozenset(
    {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "PYTHONPATH", "PYTHONHOME"}
)
_LONGEST_VARIABLE = 128 * 1024 - 1  # bytes of "NAME=value" that Linux passes to a process


def env(value: object) -> dict[str, str]:
    """Environment variables of the function's process. No message shows a value."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a dict of names and string values, not {type(value).__name__}")
    return {_variable(given): _content(given, content) for given, content in value.items()}


def _variable(given: object) -> str:
    if not isinstance(given, str) or not _ENV_NAME.fullmatch(given):
        raise ValueError(f"{given!r} is not a name of letters, digits and '_'")
    if given.upper().startswith(_OURS):
        raise ValueError(f"{given} is reserved: user code never sees the settings of flashq, RQ and Redis")
    if given in _BOUND:
        raise ValueError(f"{given} is set by the worker itself")
    return given


def _content(given: str, content: object) -> str:
    if not isinstance(content, str):
        raise ValueError(f"the value of {given} must be a string, not {type(content).__name__}")
    if "\0" in content:
        raise ValueError(f"the value of {given} must not contain a NUL character")
    try:
        size = len(f"{given}={content}".encode())
    except UnicodeEncodeError:
        raise ValueError(f"the value of {given} is not valid Unicode") from None
    if size > _LONGEST_VARIABLE:
        raise ValueError(f"the value of {given} takes {size} bytes with its name; {_LONGEST_VARIABLE} fit")
    return content


def execution_timeout_ms(value: object) -> int:
    """Milliseconds one run may take; 0: as long as it likes."""
    return whole(value, minimum=0, maximum=LONGEST_S * 1000, unit="milliseconds")


def scaler_type(value: object) -> str | None:
    """A scaling rule by Flash's name; None: flashq's own."""
    allowed = [member.value for member in ServerlessScalerType]
    if value is None:
        return None
    given = getattr(value, "value", value)
    if not isinstance(given, str) or given.upper() not in allowed:
        hint = nearest(given, allowed) if isinstance(given, str) else ""
        raise ValueError(
            f"must be {' or '.join(map(repr, allowed))}{hint}; leave it out for flashq's own rule"
        )
    return given.upper()


def scaler_value(value: object) -> float:
    """QUEUE_DELAY: seconds of waiting; REQUEST_COUNT: jobs per worker."""
    return number(value, minimum=0, maximum=LONGEST_S, above=True)


_PYTHON = re.compile(r"3\.\d{1,2}")


def caller_python() -> str:
    """The minor version of the Python that is running, such as "3.11"."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def python_version(value: object) -> str:
    """The caller's minor version: functions travel as bytecode, which differs between versions."""
    mine = caller_python()
    if value is None:
        return mine
    if not isinstance(value, str):
        raise ValueError(f"must be a string such as '{mine}', not {kind(value)}")
    if not _PYTHON.fullmatch(value):
        raise ValueError(f"must be a minor version such as '{mine}'")
    if value != mine:
        raise ValueError(
            f"this program runs Python {mine} and the endpoint asks for {value}; functions only travel"
            f" between equal minor versions: run the program with Python {value}, or leave python_version out"
        )
    return value


def max_concurrency(value: object) -> int:
    """Jobs that one worker runs at once."""
    return whole(value, minimum=1, maximum=MAX_CONCURRENCY)


def startup_timeout(value: object) -> float:
    """Seconds that imports, an instance's making and its `setup` may take."""
    return number(value, minimum=0, maximum=LONGEST_S, above=True, unit="seconds")


def recycle_jobs(value: object) -> int | None:
    """Jobs after which the process that runs them is replaced; None: never."""
    return None if value is None else whole(value, minimum=1, maximum=10**9, unit="jobs")


def recycle_gib(value: object) -> float | None:
    """Memory, in GiB, above which the process that runs jobs is replaced when it has none; None: never."""
    return None if value is None else number(value, minimum=0, maximum=1 << 20, above=True, unit="GiB")


def batch(value: object) -> tuple[int, int] | None:
    """(max_size, wait_ms): calls gathered into one call of the function, which takes and returns lists; None: not."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("must be a pair (max_size, wait_ms), such as (16, 10)")
    size = whole(value[0], minimum=2, maximum=MAX_CONCURRENCY, unit="items (the max_size)")
    return size, whole(value[1], minimum=0, maximum=60_000, unit="milliseconds (the wait_ms)")


def priority(value: object) -> int:
    """0 is normal; waiting jobs of a higher one always go first. Workers are started for all alike."""
    return whole(value, minimum=MIN_PRIORITY, maximum=MAX_PRIORITY)


def result_ttl(value: object) -> int:
    """Whole seconds that a finished job and its value are kept."""
    return whole(value, minimum=1, maximum=LONGEST_S, unit="seconds")


def ttl(value: object) -> float:
    """Seconds from submit within which a job must have begun."""
    return number(value, minimum=0, maximum=LONGEST_S, unit="seconds", above=True)


DELIVERIES = ("at_least_once", "at_most_once")


def delivery(value: object) -> str:
    """Whether a job whose worker was lost may run again."""
    if not isinstance(value, str) or value not in DELIVERIES:
        hint = nearest(value, DELIVERIES) if isinstance(value, str) else ""
        raise ValueError(f"must be {' or '.join(map(repr, DELIVERIES))}{hint}")
    return value


def max_deliveries(value: object) -> int:
    """Runs that may end without an outcome before the job fails for good."""
    return whole(value, minimum=1, maximum=MOST_DELIVERIES, unit="deliveries")


def max_queued(value: object) -> int | None:
    """Most jobs that may wait, delayed ones included; None: as many as the broker holds."""
    return None if value is None else whole(value, minimum=1, maximum=MOST_QUEUED, unit="jobs")


def accelerate_downloads(value: object) -> bool:
    """True only: uv downloads in parallel whatever one says."""
    if not flag(value):
        raise Unsupported("environments are installed by uv, whose downloads are always parallel and cached")
    return True


def flashboot(value: object) -> bool:
    """True only: what is kept ready is kept for all endpoints of a host."""
    if not flag(value):
        raise Unsupported(
            "processes are kept ready for all endpoints of a host: `flashq host --cold` keeps none"
        )
    return True


# -- per call ----------------------------------------------------------------------------------------


def optional(rule: Callable[[object], Any]) -> Callable[[object], Any]:
    """A rule under which None passes: "as the endpoint says"."""
    return lambda value: None if value is None else rule(value)


def key(value: object) -> str:
    """An idempotency key: calls with the same one are the same job."""
    return text(value, maximum=256)


def delay_s(value: object) -> float:
    """Seconds after which the job may begin."""
    return number(value, minimum=0, maximum=LONGEST_S, unit="seconds")


def timeout_s(value: object) -> float:
    """Seconds one run may take; 0: as long as it likes."""
    return number(value, minimum=0, maximum=LONGEST_S, unit="seconds")
