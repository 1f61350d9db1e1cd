"""Who may call what: API keys, as they are on record in the broker.

Where there is no key on record, everybody may, and the gateway listens on this machine alone. From the first key on,
each request needs one, wherever it comes from.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from flashq.errors import FlashqError
from flashq.gateway.problems import Problem
from flashq.store import api_keys
from flashq.store.queries_fleet import now_ms

if TYPE_CHECKING:
    from starlette.requests import Request

    from flashq.gateway.core import Core
    from flashq.store.api_keys import ApiKey
    from flashq.store.broker import Broker

FRESH_S = 2.0
"""For how long a key that was revoked may still be taken."""
_IN_THE_URL = frozenset({"api_key", "apikey", "key", "token", "access_token"})
_ASK = {"WWW-Authenticate": "Bearer"}


class Access:
    """The keys of a deployment. `local_only`: nobody but this machine reaches the gateway."""

    def __init__(self, core: Core, *, local_only: bool, fresh_s: float = FRESH_S) -> None:
        self._fresh_s = fresh_s
        self._core = core
        self._local_only = local_only
        self._keys: dict[str, ApiKey] = {}
        self._skew_ms = 0.0
        self._read_at = float("-inf")
        self._failed: FlashqError | None = None
        self._reading = asyncio.Lock()

    async def check(self, request: Request, endpoint: str) -> None:
        """Raises Problem where this request may not use this endpoint."""
        key = await self.key_of(request)
        if key is not None and not key.allows(endpoint):
            raise Problem(403, f"this API key is not for endpoint {endpoint}")

    async def check_all(self, request: Request) -> None:
        """Raises Problem where this request may not see what is of all endpoints."""
        key = await self.key_of(request)
        if key is not None and key.endpoints:
            raise Problem(403, "this API key is for some endpoints alone")

    async def key_of(self, request: Request) -> ApiKey | None:
        """The key that a request comes with; None where none is needed. Raises Problem."""
        await self._refresh(self._fresh_s)
        if not self._keys and self._local_only:
            return None
        if found := _IN_THE_URL & request.query_params.keys():
            raise Problem(
                401,
                f"{min(found)}=… in the address ends up in logs: send Authorization: Bearer …",
                headers=_ASK,
            )
        given = request.headers.get("authorization", "")
        scheme, _, word = given.partition(" ")
        word = (word if scheme.lower() == "bearer" else given).strip()
        if not word:
            raise Problem(401, "an API key is needed: Authorization: Bearer …", headers=_ASK)
        number = api_keys.id_of(word)
        if number and number not in self._keys:
            await self._refresh(0.0)  # it may have been made since the last look
        record = self._keys.get(number)
        if record is None or not api_keys.is_word_of(word, record):
            raise Problem(401, "this API key is not known", headers=_ASK)
        now = time.monotonic() * 1000 + self._skew_ms
        if record.expires_ms is not None and now >= record.expires_ms:
            raise Problem(401, "this API key has expired", headers=_ASK)
        return record

    async def _refresh(self, fresh_s: float) -> None:
        """Know the keys as they were so long ago at most. All that ask meanwhile share the next look: whoever sends
        words that are no keys has the broker asked once at a time.
        """
        since = time.monotonic() - (0.0 if self._failed is not None else fresh_s)
        if self._read_at >= since:
            return
        async with self._reading:
            if self._read_at < since:
                await self._read()
            if self._failed is not None:
                raise self._failed.with_traceback(None)

    async def _read(self) -> None:
        began = time.monotonic()
        try:
            keys, at_ms = await self._core.ask(_read)
        except FlashqError as error:
            self._failed, self._read_at = error, began
            return
        self._failed, self._read_at = None, began
        self._keys = {key.id: key for key in keys}
        self._skew_ms = at_ms - time.monotonic() * 1000


def _read(broker: Broker) -> tuple[list[ApiKey], int]:
    return api_keys.listed(broker), now_ms(broker)
