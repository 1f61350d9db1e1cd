"""The tables of docs/reference, each made from the code that it tells of (see reference.py)."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from flashq import errors, settings
from flashq.job import Timing
from flashq.model import causes, envelope, keyring, lifecycle, outcome, parameters
from flashq.model.resources import CpuInstanceType, CpuRequest, GpuGroup
from flashq.model.retry import Retries
from flashq.model.spec import CallOptions, EndpointSpec
from flashq.store.keys import NAMES
from flashq_autoscaler import views
from flashq_worker.executor import frames
from flashq_worker.exit_policy import ExitCode
from scripts import reference_words as words
from scripts.results_table import markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


class Missing(Exception):
    """The code has something of which reference_words.py says nothing, or the other way round."""


T = TypeVar("T")


def complete(told: Mapping[str, T], names: Iterable[str], what: str) -> Mapping[str, T]:
    """`told`, if it tells of exactly these names."""
    wanted = set(names)
    if wanted != told.keys():
        raise Missing(f"{what}: {sorted(wanted ^ told.keys())}")
    return told


def table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of text, all columns to the left."""
    return markdown(headings, rows).replace("---:", "---")


def cell(text: str) -> str:
    """Text in one line that breaks no table, with Markdown's code marks."""
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`")


def code(value: object) -> str:
    return f"`{value}`"


def attribute_docs(cls: type) -> dict[str, str]:
    """The docstrings under the attributes of a class, by name."""
    body = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for before, after in zip(body.body, body.body[1:], strict=False):
        target = getattr(before, "target", None) or (getattr(before, "targets", None) or [None])[0]
        if (
            isinstance(target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[target.id] = str(after.value.value)
    return found


def trailing_comments(cls_or_module: Any) -> dict[str, str]:
    """The comments behind lines of the form `name = …  # comment` or `"name": …  # comment`."""
    source = inspect.getsource(cls_or_module)
    pattern = re.compile(r'^\s*"?(\w+)"?(?:: [^=#"]+?)?(?:\s*[=:]).*?\S  # (.+)$', re.MULTILINE)
    return {match[1]: match[2] for match in pattern.finditer(source) if not match[2].startswith("noqa")}


# -- parameters --------------------------------------------------------------------------------------


def _rule(field: Any) -> Callable[[object], Any]:
    (validator,) = [each for each in field.metadata if hasattr(each, "func")]
    rule: Callable[[object], Any] = validator.func
    return rule


def refusal(rule: Callable[[object], Any]) -> str | None:
    """Why this version honours no value but the default; None where it honours some."""
    try:
        rule(object())
    except parameters.Unsupported as error:
        return str(error)
    except ValueError:
        return None
    return None


def _default(name: str, value: Any) -> str:
    match value:
        case _ if name in words.DEFAULTS:
            return words.DEFAULTS[name]
        case Retries() | CpuRequest():
            return code(value.max if isinstance(value, Retries) else value.instance)
        case _:
            return code(value)


def _fields(cls: type[EndpointSpec | CallOptions]) -> dict[str, tuple[Any, str | None]]:
    found = {}
    for name, field in cls.model_fields.items():
        default = field.get_default(call_default_factory=True)
        found[name] = (default, refusal(_rule(field)))
    return found


def endpoint_parameters() -> str:
    """What `Endpoint(...)` takes and honours."""
    fields = _fields(EndpointSpec)
    honoured = {name: default for name, (default, why) in fields.items() if why is None}
    told = complete(words.PARAMETERS, honoured, "parameters")
    rows = [(code(name), _default(name, default), told[name]) for name, default in honoured.items()]
    return table(("parameter", "default", "meaning"), rows)


def parameter_refusals() -> dict[str, str]:
    """Which parameters, or which one value of them, this version refuses, and why."""
    found = {name: why for name, (_, why) in _fields(EndpointSpec).items() if why}
    for name in ("accelerate_downloads", "flashboot"):
        try:
            getattr(parameters, name)(False)
        except parameters.Unsupported as error:
            found[f"{name}=False"] = str(error)
    return found


def refused_parameters() -> str:
    """What `Endpoint(...)` takes by name and refuses for now, with the words of its error."""
    fields = _fields(EndpointSpec)
    rows = [
        (code(name), _default(name, fields[name][0]) if name in fields else code(True), cell(why))
        for name, why in parameter_refusals().items()
    ]
    rows += [(code(name), "–", cell(why)) for name, why in parameters.DECLINED.items()]
    return table(("parameter", "default", "why another value is refused"), rows)


def call_options() -> str:
    """What `with_options(...)` takes."""
    fields = _fields(CallOptions)
    told = complete(words.CALL_OPTIONS, fields, "call options")
    return table(("option", "meaning"), [(code(name), told[name]) for name in fields])


def retries_fields() -> str:
    """The fields of `Retries`."""
    fields = {field.name: field.default for field in dataclasses.fields(Retries)}
    told = complete(words.RETRIES, fields, "retries")
    return table(("field", "default", "meaning"), [(code(n), code(d), told[n]) for n, d in fields.items()])


def gpu_groups() -> str:
    """GPU groups and the product names they stand for."""
    rows = [(code(f"GpuGroup.{g.name}"), ", ".join(g.products)) for g in GpuGroup.all()]
    return table(("group", "NVML product names"), rows)


def cpu_sizes() -> str:
    """CPU instance names."""
    return ", ".join(code(member.value) for member in CpuInstanceType) + "\n"


# -- errors ------------------------------------------------------------------------------------------


def error_tree() -> str:
    """The tree as errors.py draws it."""
    lines = (errors.__doc__ or "").splitlines()
    tree = [line.removeprefix("    ") for line in lines if line.startswith("    ")]
    return "```text\n" + "\n".join(tree) + "\n```\n"


def error_table() -> str:
    """Every error with its docstring."""
    found = [
        cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.FlashqError)
    ]
    return table(
        ("error", "when"),
        [(code(cls.__name__), cell((cls.__doc__ or "").partition("\n\n")[0])) for cls in found],
    )


# -- states ------------------------------------------------------------------------------------------


def job_states() -> str:
    """The diagram of the lifecycle's table: one arrow a pair of states, with the transitions that make it."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for transition, moves in lifecycle.TRANSITIONS.items():
        for before, after in moves.items():
            for state in sorted(after):
                pair = ("[*]" if before is None else before.value, state.value)
                if pair[0] != pair[1]:
                    arrows.setdefault(pair, []).append(transition)
    lines = [f"    {before} --> {after}: {', '.join(by)}" for (before, after), by in arrows.items()]
    ends = [f"    {state.value} --> [*]" for state in lifecycle.JobState if state in lifecycle.TERMINAL]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, *ends, "```"]) + "\n"


def transitions() -> str:
    """The same as a table."""
    told = complete(words.TRANSITIONS, lifecycle.TRANSITIONS, "transitions")
    rows = []
    for name, moves in lifecycle.TRANSITIONS.items():
        parts = [
            f"{'(new)' if before is None else before.value} → {', '.join(sorted(s.value for s in after))}"
            for before, after in moves.items()
        ]
        rows.append((code(name), "<br>".join(parts), told[name]))
    return table(("transition", "from → to", "what it is"), rows)


def statuses() -> str:
    """The states that people see."""
    told = complete(words.STATES, (s.value for s in lifecycle.JobState), "job states")
    rows = [
        (code(s.value), code(lifecycle.STATUS[s].value), code(lifecycle.RQ_STATUS[s]), told[s.value])
        for s in lifecycle.JobState
    ]
    return table(("`fq_state`", "status shown", "RQ's `status`", "meaning"), rows)


# -- settings, wire, keys ----------------------------------------------------------------------------


def settings_table() -> str:
    """The table that settings.py is headed by."""
    lines = [line for line in (settings.__doc__ or "").splitlines() if line.startswith("|")]
    return "\n".join(lines) + "\n"


def header_fields() -> str:
    """The fields of an envelope's header."""
    fixed = dict(zip(envelope._REQUIRED, words.REQUIRED_FIELDS, strict=True))  # noqa: SLF001 — tells of it
    rows = [(code(short), kind, meaning) for short, (kind, meaning) in fixed.items()]
    names = {name: (wire, default) for name, wire, default in envelope._FIELDS}  # noqa: SLF001
    told = complete(words.HEADER_FIELDS, names, "header fields")
    for name, (wire, default) in names.items():
        kind = "text" if isinstance(default, str) else "integer"
        shown = "" if default in ("", 0) else f" Default {code(default)}."
        rows.append((code(wire), kind, told[name] + shown))
    return table(("field", "type", "meaning"), rows)


def directions() -> str:
    """What a record may be."""
    told = complete(words.DIRECTIONS, (d.value for d in keyring.Direction), "directions")
    return table(("`dir`", "signed by", "for"), [(code(d), *told[d].split(" → ")) for d in told])


def failure_kinds() -> str:
    """Why there is no value."""
    comments = trailing_comments(outcome.FailureKind)
    told = complete(words.FAILURES, (k.value for k in outcome.FailureKind), "failure kinds")
    rows = [
        (code(k.value), comments.get(k.name, "it was cancelled"), told[k.value]) for k in outcome.FailureKind
    ]
    return table(("kind", "meaning", "raised in the caller"), rows)


def frame_types() -> str:
    """The frames between supervisor and executor."""
    docs = attribute_docs(frames.FrameType)
    rows = [(code(int(kind)), code(kind.name), cell(docs[kind.name])) for kind in frames.FrameType]
    return table(("type", "name", "said by, and what is in it"), rows)


def key_names() -> str:
    """Every kind of key."""
    from flashq.store import keys

    comments = trailing_comments(keys)
    told = {**comments, **words.RQ_KEYS}
    rows = []
    for name, key in NAMES.items():
        if name not in told:
            raise Missing(f"key {name}")
        kind, separator, meaning = told[name].partition(": ")
        if not separator:
            kind, _, meaning = told[name].partition(" of ")
        subject = "…" if key.endswith(":") else ""
        rows.append((code(f"rq:{key}{subject}"), cell(kind), cell(meaning).replace("<", "\\<")))
    return table(("key", "type", "what it holds"), rows)


# -- workers and scaling -----------------------------------------------------------------------------


def worker_states() -> str:
    """The six states."""
    told = complete(words.WORKER_STATES, get_args(views.WorkerState), "worker states")
    return table(("state", "meaning"), [(code(state), told[state]) for state in get_args(views.WorkerState)])


def obstacles() -> str:
    """Why an endpoint is throttled or unhealthy, or a start withheld."""
    names = [*get_args(views.ThrottleCode), *get_args(views.UnhealthyCode), *get_args(views.WithheldCode)]
    told = complete(words.OBSTACLES, names, "codes")
    kinds = {
        "throttled": views.ThrottleCode,
        "unhealthy": views.UnhealthyCode,
        "(start withheld)": views.WithheldCode,
    }
    rows = [(code(name), kind, told[name]) for kind, literal in kinds.items() for name in get_args(literal)]
    return table(("code", "of", "meaning"), rows)


def wait_causes() -> str:
    """Every answer of `flashq why`."""
    rows = [
        (code(cause), causes.TOLD[cause].meaning, cell(causes.TOLD[cause].advice)) for cause in causes.Cause
    ]
    return table(("cause", "meaning", "what to do"), rows)


def scaling_parameters() -> str:
    """The numbers of the decision."""
    docs = attribute_docs(views.Params)
    fields = {field.name: field.default for field in dataclasses.fields(views.Params)}
    rows = [(code(n), code(f"{d:g}"), cell(docs.get(n) or words.SCALING[n])) for n, d in fields.items()]
    return table(("name", "value", "meaning"), rows)


def exit_codes() -> str:
    """How a worker process ends."""
    comments = trailing_comments(ExitCode)
    return table(
        ("code", "name", "meaning"), [(code(int(c)), code(c.name), comments[c.name]) for c in ExitCode]
    )


def timing_fields() -> str:
    """The fields of `job.timing`."""
    fields = [field.name for field in dataclasses.fields(Timing)]
    told = complete(words.TIMING, fields, "timing")
    return table(("field", "meaning"), [(code(name), told[name]) for name in fields])


TABLES: dict[str, Callable[[], str]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        endpoint_parameters,
        refused_parameters,
        call_options,
        retries_fields,
        gpu_groups,
        cpu_sizes,
        error_tree,
        error_table,
        job_states,
        transitions,
        statuses,
        settings_table,
        header_fields,
        directions,
        failure_kinds,
        frame_types,
        key_names,
        worker_states,
        obstacles,
        wait_causes,
        scaling_parameters,
        exit_codes,
        timing_fields,
    )
}
