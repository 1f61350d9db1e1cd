"""Bodies of requests and answers: strict JSON, both ways."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

from starlette.responses import JSONResponse

from flashq.gateway.problems import Problem
from flashq.model.http_request import NO_BODY

if TYPE_CHECKING:
    from starlette.requests import Request


def written(content: Any) -> bytes:
    """As JSON in UTF-8. Half a character, which UTF-8 has no bytes for, stays the escape that it came as."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


class Answer(JSONResponse):
    """JSON that says what it says in UTF-8, and has no NaN."""

    def render(self, content: Any) -> bytes:
        return written(content)


async def read_json(request: Request) -> Any:
    """The body, out of JSON; `NO_BODY` where there is none. Raises Problem."""
    if not await request.body():
        return NO_BODY
    return await _read(request)


async def read_object(request: Request) -> dict[str, Any]:
    """The body, which has to be a JSON object. Raises Problem."""
    found = await _read(request)
    if not isinstance(found, dict):
        raise Problem(422, "the body has to be a JSON object", field="body")
    return found


async def _read(request: Request) -> Any:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "the body has to be JSON: Content-Type: application/json")
    raw = await request.body()
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise Problem(400, "the body is no UTF-8") from None
    except RecursionError:
        raise Problem(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise Problem(400, f"the body is no JSON: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
