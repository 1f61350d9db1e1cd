"""Whether what a caller sends fits the function's signature: by the schema in the revision's signed record.

Makes arguments of it, or says which field is wrong. Knows nothing of HTTP, nor of the broker.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import jsonschema
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from flashq.errors import FlashqError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jsonschema.exceptions import ValidationError

_DEEPEST = 100
_MOST_ERRORS = 50
"""That are looked at for the one to be told."""
_EMPTY = {"__empty": True}
"""What Runpod's programs send where there is nothing to send."""


class InputRefused(FlashqError):
    """The input does not fit the function. `field` says where: `input.prompt`, `input.items[3]`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a function is called with."""

    args: list[Any]
    kwargs: dict[str, Any]


class Signature:
    """The parameters of one target. Without a schema (of an earlier version of flashq) anything is taken."""

    def __init__(self, schema: dict[str, Any] | None) -> None:
        self.schema = schema
        self._validator = None if schema is None else _validator(schema)

    @property
    def names(self) -> frozenset[str]:
        """Of its parameters."""
        return frozenset(self.schema["properties"]) if self.schema else frozenset()

    def arguments(self, given: Any, where: str = "input") -> Arguments:
        """What `given` has the function called with: an object's fields are its parameters by name, anything else is
        its one argument; of a function that gathers calls it is always the item.

        Raises InputRefused.
        """
        _check_depth(given, where)
        if given == _EMPTY or (given == {"input": {}} and "input" not in self.names):
            given = {}  # the latter is what Runpod's client makes of no input
        if self.schema is not None and self.schema.get("x-batch"):
            return self._one(given, where)
        if isinstance(given, dict):
            if self._validator is not None:
                _refuse(self._validator.iter_errors(given), where)
            return Arguments([], given)
        return self._one(given, where)

    def _one(self, given: Any, where: str) -> Arguments:
        """A call with one argument, by its place."""
        if self.schema is None:
            return Arguments([given], {})
        first = next(iter(self.schema["x-positional"]), None)
        if first is None and "x-further" not in self.schema:
            raise InputRefused(where, f"must be an object with {_listed(self.names) or 'nothing in it'}")
        missing = [name for name in self.schema["required"] if name != first]
        if missing and not self.schema.get("x-batch"):
            raise InputRefused(where, f"must be an object with {_listed(self.names)}")
        part = self.schema["properties"][first] if first else self.schema["x-further"]
        whole = {**part, "$defs": self.schema.get("$defs", {})}
        _refuse(_validator(whole).iter_errors(given), where)
        return Arguments([given], {})


def _validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """What it refers to is in it, or nowhere: nothing is fetched because a schema names an address."""
    return jsonschema.Draft202012Validator(schema, registry=EMPTY_REGISTRY)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _check_depth(given: Any, where: str) -> None:
    level, depth = [given], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise InputRefused(where, f"is nested more than {_DEEPEST} deep")
        level = [
            item
            for value in level
            for item in (
                value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            )
        ]


def _refuse(found: Iterable[ValidationError], where: str) -> None:
    """Raises InputRefused for the error that is the most to the point."""
    try:
        error = jsonschema.exceptions.best_match(islice(found, _MOST_ERRORS))
    except Unresolvable:  # it refers to what is not in it: the worker judges
        return
    if error is None:
        return
    field = where + "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path
    )
    raise InputRefused(*_said(error, field))


def _said(error: ValidationError, field: str) -> tuple[str, str]:
    match error.validator:
        case "required":
            name = next((n for n in error.validator_value if n not in error.instance), "")
            return f"{field}.{name}", "is missing"
        case "additionalProperties" if error.validator_value is False:
            known = error.schema.get("properties", {})
            extra = sorted(set(error.instance) - set(known))
            return f"{field}.{extra[0]}", f"there is no such field; there are {_listed(known) or 'none'}"
        case "type":
            return field, f"must be {_kinds(error.validator_value)}, not {_shown(error.instance)}"
        case "enum":
            return field, f"must be one of {', '.join(map(_shown, error.validator_value))}"
        case "not":
            return field, str(error.schema.get("description", "cannot be given as JSON"))
    return field, error.message if len(error.message) < 300 else "does not fit"


def _kinds(wanted: Any) -> str:
    names = {"object": "an object", "array": "an array", "integer": "an integer", "null": "null"}
    listed = wanted if isinstance(wanted, list) else [wanted]
    return " or ".join(names.get(kind, f"a {kind}") for kind in listed)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"
