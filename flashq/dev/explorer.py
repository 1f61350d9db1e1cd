"""What `/openapi.json` says while a project is served: each of its functions and routes, with their parameters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flashq.dev.aliases import answers_requests, calls_of, prefix_of
from flashq.model.http_request import OF_FIELDS, split
from flashq.model.routes import WITH_BODY, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashq.by_name import Current
    from flashq.dev.project import LiveEndpoint


def paths(live: Sequence[LiveEndpoint], current: dict[str, Current]) -> dict[str, Any]:
    """OpenAPI's `paths` of the project's endpoints."""
    found: dict[str, Any] = {}
    for one in live:
        known = current.get(one.name)
        if known is None:
            continue
        schemas = json.loads(known.schemas or "{}")
        routed = {target: route for target in known.targets if (route := parse(target)) is not None}
        for target, route in routed.items():
            where = f"{prefix_of(one)}{route.path}".replace(":path}", "}")
            found.setdefault(where, {})[route.method.lower()] = _route(one, route, schemas.get(target, {}))
        if not answers_requests(known.targets):
            same = [other for other in live if other.file == one.file]
            schema = schemas.get("") or (
                schemas.get(next(iter(known.targets))) if len(known.targets) == 1 else None
            )
            where = calls_of(one, len(same) == 1)
            for verb, about in (("runsync", "Call it and wait."), ("run", "Submit a call.")):
                found[f"{where}/{verb}"] = {"post": _call(one, verb, about, schema or {})}
    return found


def _call(one: LiveEndpoint, verb: str, about: str, schema: dict[str, Any]) -> dict[str, Any]:
    body = {"type": "object", "required": ["input"], "properties": {"input": _plain(schema)}}
    return {
        "tags": [one.file],
        "summary": f"{one.function}: {one.about}" if one.about else one.function,
        "description": about,
        "operationId": f"{one.name}-{verb}",
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "The job"}, "422": {"description": "The input does not fit"}},
    }


def _route(one: LiveEndpoint, route: Any, schema: dict[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    body, query = split(route, schema)
    required = schema.get("required", [])
    parameters = [
        {
            "name": name,
            "in": "path" if name in route.names else "query",
            "required": name in route.names or name in required,
            "schema": _inlined(properties[name], schema),
        }
        for name in [*route.names, *query]
        if name in properties
    ]
    told: dict[str, Any] = {
        "tags": [one.file],
        "summary": route.target,
        "operationId": f"{one.name}-{route.target}",
        "parameters": parameters,
        "responses": {"200": {"description": "What it returns"}, "422": {"description": "It does not fit"}},
    }
    if route.method in WITH_BODY and body:
        whole = (
            _inlined(properties[body[0]], schema)
            if len(body) == 1 and body[0] not in query and not schema.get(OF_FIELDS)
            else {"type": "object", "properties": {name: _inlined(properties[name], schema) for name in body}}
        )
        told["requestBody"] = {"content": {"application/json": {"schema": whole}}}
    return told


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Without what is for flashq alone, and with what it refers to in place."""
    kept = {name: value for name, value in schema.items() if not name.startswith("x-") and name != "$defs"}
    found: dict[str, Any] = _inlined(kept, schema)
    return found


def _inlined(part: Any, whole: dict[str, Any], depth: int = 0) -> Any:
    """References replaced by what they mean; what means itself ends at some depth."""
    if isinstance(part, list):
        return [_inlined(each, whole, depth) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        named = whole.get("$defs", {}).get(str(part["$ref"]).rpartition("/")[2], {})
        return {} if depth > 5 else _inlined(named, whole, depth + 1)
    return {name: _inlined(value, whole, depth) for name, value in part.items()}
