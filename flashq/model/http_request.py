"""An HTTP request as the arguments of a route's function, by the schema of its parameters, as FastAPI has it. Pure.

What the path names comes from there. Of GET and DELETE all else comes from the query. Of the others one parameter that
is an object or a list is the body itself, several are its fields; plain ones come from the query, or, where that
lacks them and nothing claims the body as a whole, from its fields. Whether the values are right is not judged here.

Routes of programs that are written for Flash say so in their schema (`OF_FIELDS`): there a body has all parameters as
its fields, one alone too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flashq.model.routes import WITH_BODY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashq.model.routes import Route

NO_BODY: Any = object()
OF_FIELDS = "x-fields"
FIELDS_MARK = "__flashq_fields__"
"""Attribute of a function whose schema is to say that."""
_STRUCTURED = ("object", "array")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def arguments(
    route: Route,
    schema: Mapping[str, Any],
    path: Mapping[str, str],
    query: Sequence[tuple[str, str]],
    body: Any = NO_BODY,
) -> dict[str, Any]:
    """By parameter. `schema`: see `flashq.signature`; `path`: what the route's match found; `body`: out of JSON."""
    properties: Mapping[str, Any] = schema.get("properties", {})
    whole = _Schemas(schema.get("$defs", {}))
    found: dict[str, Any] = {
        name: whole.from_text(properties.get(name, {}), [text]) for name, text in path.items()
    }
    texts: dict[str, list[str]] = {}
    for name, text in query:
        texts.setdefault(name, []).append(text)
    open_ended = schema.get("additionalProperties", False) is not False
    for name, given in texts.items():
        if (name in properties or open_ended or route.method not in WITH_BODY) and name not in found:
            found[name] = whole.from_text(properties.get(name, {}), given)
    if route.method in WITH_BODY and body is not NO_BODY:
        fields = bool(schema.get(OF_FIELDS)) and isinstance(body, dict) and body.keys() <= properties.keys()
        found |= _of_body(properties, whole, found, body, fields=fields)
    return found


def split(route: Route, schema: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The parameters that the body gives, and those that the query may give; some may come from either."""
    properties = schema.get("properties", {})
    left = [name for name in properties if name not in route.names]
    if route.method not in WITH_BODY:
        return [], left
    schemas = _Schemas(schema.get("$defs", {}))
    structured = [name for name in left if schemas.is_structured(properties[name])]
    plain = [name for name in left if name not in structured]
    return (structured, plain) if len(structured) == 1 and not schema.get(OF_FIELDS) else (left, plain)


def _of_body(
    properties: Mapping[str, Any], schemas: _Schemas, found: Mapping[str, Any], body: Any, *, fields: bool
) -> dict[str, Any]:
    left = [name for name in properties if name not in found]
    structured = [name for name in left if schemas.is_structured(properties[name])]
    if len(structured) == 1 and not fields:
        return {structured[0]: body}
    if isinstance(body, dict):
        return {name: value for name, value in body.items() if name not in found}
    return {left[0]: body} if len(left) == 1 else {"body": body}


class _Schemas:
    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions

    def kinds(self, schema: Mapping[str, Any]) -> list[str]:
        """JSON's types that a value of this schema may have; none: any."""
        if "$ref" in schema:
            return self.kinds(self._definitions.get(schema["$ref"].rpartition("/")[2], {}))
        for several in ("anyOf", "oneOf"):
            if several in schema:
                return [kind for each in schema[several] for kind in self.kinds(each)]
        kind = schema.get("type", [])
        return [kind] if isinstance(kind, str) else list(kind)

    def is_structured(self, schema: Mapping[str, Any]) -> bool:
        """Whether it is an object or a list, or may be anything: what no query can say."""
        kinds = self.kinds(schema)
        values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
        return not values and (not kinds or any(kind in _STRUCTURED for kind in kinds))

    def from_text(self, schema: Mapping[str, Any], texts: list[str]) -> Any:
        """What a path or a query says, as JSON has it; as it is where it is nothing that the schema would have."""
        kinds = self.kinds(schema)
        if "array" in kinds:
            item = schema.get("items")
            return [self.from_text(item if isinstance(item, dict) else {}, [text]) for text in texts]
        text = texts[-1]
        if "integer" in kinds and _is_number(text, int):
            return int(text)
        if "number" in kinds and _is_number(text, float):
            return float(text)
        if "boolean" in kinds and text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        if "null" in kinds and text == "null" and "string" not in kinds:
            return None
        return text


def _is_number(text: str, kind: type[int] | type[float]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return (
        text.strip() == text
        and "_" not in text
        and text.lower().lstrip("+-") not in ("nan", "inf", "infinity")
    )
