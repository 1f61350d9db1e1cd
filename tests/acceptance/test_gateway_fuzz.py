"""A fuzzer that reads /openapi.json (schemathesis, from the index): nothing it sends breaks the gateway or its word."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Literal

import pytest

from flashq import Endpoint
from tests.integration.gateway_rig import Gateway
from tests.packages import require_packages
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.slow, pytest.mark.timeout(300)]
FUZZER = "schemathesis==4.*"
_CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "negative_data_rejection,positive_data_acceptance,unsupported_method"
)
_UNTOUCHED = ("webhook", "policy", "options")
"""Of a body: to be fuzzed they would have to name hosts that are none, or make jobs wait."""


@dataclasses.dataclass
class Size:
    width: int
    height: float = 1.0


@Endpoint(name="gf-typed", cpu="any", result_ttl=60)
def typed(
    text: str,
    number: int = 0,
    flag: bool = False,
    size: Size | None = None,
    items: list[float] | None = None,
    mode: Literal["fast", "good"] = "fast",
) -> Any:
    return {"text": text, "number": number, "flag": flag, "size": size, "items": items, "mode": mode}


@Endpoint(name="gf-count", cpu="any", result_ttl=60)
def count(to: Literal[1, 2, 3]) -> Any:
    yield from range(to)


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, in an environment of its own."""
    require_packages(FUZZER)
    folder = tmp_path_factory.mktemp("fuzz") / "environment"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, str(folder)], check=True)
    subprocess.run([*uv, "pip", "install", "--python", str(folder / "bin" / "python"), FUZZER], check=True)
    return folder / "bin" / "schemathesis"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    made = Rig()
    made.worker(typed)
    made.worker(count)
    yield made
    made.close()


@pytest.fixture(scope="module")
def gateway(rig: Rig) -> Iterator[Gateway]:
    made = Gateway(rig)
    yield made
    made.close()


def test_the_document_has_each_endpoints_own_schema(gateway: Gateway) -> None:
    document = gateway.get("/openapi.json").body
    body = document["paths"]["/v2/gf-typed/runsync"]["post"]["requestBody"]["content"]["application/json"]
    given = body["schema"]["properties"]["input"]
    given, alone = given["anyOf"]
    assert alone["allOf"][0] == {"type": "string"}
    assert given["required"] == ["text"]
    assert given["properties"]["size"]["anyOf"][0] == {"$ref": "#/components/schemas/gf-typed.Size"}
    assert document["components"]["schemas"]["gf-typed.Size"]["required"] == ["width"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/gf-typed/run", 405),
        ("POST", "/v2/gf-typed/status/x", 405),
        ("PUT", "/v2/gf-typed/runsync", 405),
        ("POST", "/v2/gf-typed/nothing", 404),
        ("GET", "/v2/gf-typed", 404),
        ("GET", "/v2", 404),
    ],
)
def test_what_is_no_route_is_said_to_be_none(gateway: Gateway, method: str, path: str, status: int) -> None:
    reply = gateway.ask(method, path)
    assert reply.status == status
    assert ("allow" in reply.headers) == (status == 405)


def test_nothing_that_a_fuzzer_sends_breaks_it(gateway: Gateway, fuzzer: Path, tmp_path: Path) -> None:
    document = wait_until(lambda: gateway.get("/openapi.json").body)
    for path in document["paths"].values():
        for operation in path.values():
            if "requestBody" in operation:
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                for name in _UNTOUCHED:
                    schema["properties"].pop(name, None)
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(document))
    command = [str(fuzzer), "run", str(file), "--url", gateway.url, "--checks", _CHECKS]
    bounds = [
        "--max-examples",
        "15",
        "--phases",
        "examples,coverage,fuzzing",
        "--seed",
        "1",
        "--request-timeout",
        "30",
    ]
    done = subprocess.run(
        [*command, *bounds, "--warnings", "off", "--no-color"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    assert gateway.get("/readyz").status == 200
