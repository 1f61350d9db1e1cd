"""What requests and answers look like, as JSON Schemas: for `/docs`, `/openapi.json` and whatever reads them. Pure."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from flashq.gateway.call_terms import LONGEST_MS
from flashq.model.lifecycle import Status

if TYPE_CHECKING:
    from collections.abc import Iterable

_MS = {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_MS, "description": "milliseconds"}
_BESIDE_INPUT: dict[str, Any] = {
    "webhook": {
        "type": "string",
        "format": "uri",
        "description": "Is told by a POST what `status` says, once the job has ended.",
    },
    "policy": {
        "type": "object",
        "properties": {"executionTimeout": _MS, "ttl": _MS, "lowPriority": {"type": "boolean"}},
        "additionalProperties": False,
    },
    "options": {
        "type": "object",
        "description": "What `with_options` takes: key, priority, delay_s, ttl_s, timeout_s, retries, delivery.",
    },
}
_ANY_INPUT = {"description": "The function's parameters by name, or its one argument."}
ACCEPTED = {
    "type": "object",
    "required": ["id", "status"],
    "properties": {"id": {"type": "string"}, "status": {"enum": [status.value for status in Status]}},
}
JOB = {
    "type": "object",
    "required": ["id", "status"],
    "properties": {
        **ACCEPTED["properties"],  # type: ignore[dict-item]
        "output": {"description": "What the function returned; while it runs, how far it is."},
        "error": {"type": "string"},
        "delayTime": {"type": "integer", "description": "milliseconds from submit until it began"},
        "executionTime": {"type": "integer", "description": "milliseconds that it ran"},
        "workerId": {"type": "string"},
        "note": {"type": "string"},
    },
}
STREAM = {
    "type": "object",
    "required": ["status", "stream"],
    "properties": {
        "status": ACCEPTED["properties"]["status"],  # type: ignore[index]
        "stream": {"type": "array", "items": {"type": "object", "required": ["output"]}},
        "error": {"type": "string"},
    },
}
PURGED = {
    "type": "object",
    "required": ["removed", "status"],
    "properties": {"removed": {"type": "integer"}, "status": {"const": "completed"}},
}
HEALTH = {
    "type": "object",
    "required": ["jobs", "workers"],
    "properties": {
        name: {"type": "object", "additionalProperties": {"type": "integer"}} for name in ("jobs", "workers")
    },
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}, "field": {"type": "string"}},
}


def answers(schema: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """What a route may answer: this with 200, or an error."""

    def told(about: str, what: dict[str, Any]) -> dict[str, Any]:
        return {"description": about, "content": {"application/json": {"schema": what}}}

    return {200: told("as asked", schema), "default": told("what is wrong", _ERROR)}


def body(given: dict[str, Any] = _ANY_INPUT) -> dict[str, Any]:
    """The body of a call whose input is so."""
    schema = {
        "type": "object",
        "required": ["input"],
        "properties": {"input": given, **_BESIDE_INPUT},
        "additionalProperties": False,
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def described(
    document: dict[str, Any], signatures: dict[str, dict[str, dict[str, Any] | None]]
) -> dict[str, Any]:
    """The gateway's document with the calls of these endpoints, by the schemas of their targets."""
    paths, components = dict(document["paths"]), dict(document.get("components", {}))
    kept = dict(components.get("schemas", {}))
    for name, targets in signatures.items():
        given, definitions = _input(name, targets)
        kept |= definitions
        for verb in ("run", "runsync"):
            generic = paths[f"/v2/{{endpoint}}/{verb}"]["post"]
            own = {
                **generic,
                "tags": [name],
                "operationId": f"{verb}_{name}",
                "parameters": _parameters(generic, targets),
            }
            paths[f"/v2/{name}/{verb}"] = {"post": own | body(given)}
    components["schemas"] = kept
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {**document, "paths": paths, "components": components, "security": [{}, {"key": []}]}


def _parameters(generic: dict[str, Any], targets: Iterable[str]) -> list[dict[str, Any]]:
    """Of one endpoint: of its methods, if it is a class, the one that is called."""
    methods = sorted(target for target in targets if target)
    found = []
    for one in generic.get("parameters", ()):
        if one["name"] == "method" and methods:
            found.append({**one, "required": len(methods) > 1, "schema": {"enum": methods}})
        elif one["name"] not in ("endpoint", "method"):
            found.append(one)
    return found


def _input(
    endpoint: str, targets: dict[str, dict[str, Any] | None]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The schema of an endpoint's input, and those that it refers to, by names of their own."""
    schema = next(iter(targets.values())) if len(targets) == 1 else None
    if schema is None:
        return _ANY_INPUT, {}
    raw = json.dumps({key: value for key, value in schema.items() if not key.startswith("x-")})
    moved = re.sub(r'"#/\$defs/([^"]*)"', lambda m: f'"#/components/schemas/{_named(endpoint, m[1])}"', raw)
    found = json.loads(moved)
    inner = {_named(endpoint, name): one for name, one in found.pop("$defs", {}).items()}
    first = next(iter(schema["x-positional"]), "")
    alone: dict[str, Any] = found["properties"].get(first, {})
    if schema.get("x-batch"):
        return alone, inner
    if not first or set(schema["required"]) - {first}:
        return found, inner
    return {"anyOf": [found, {"allOf": [alone, {"not": {"type": "object"}}]}]}, inner


def _named(endpoint: str, name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", f"{endpoint}.{name}")
