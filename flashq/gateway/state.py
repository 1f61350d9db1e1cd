"""The parts that routes find in `app.state.gateway`. Routers of other modules use them, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashq.gateway.access import Access
    from flashq.gateway.core import Core
    from flashq.gateway.snapshots import Snapshots
    from flashq.gateway.streams import Streams
    from flashq.gateway.webhooks import Webhooks


@dataclass(frozen=True, slots=True)
class State:
    """One of each a process."""

    core: Core
    access: Access
    streams: Streams
    webhooks: Webhooks
    snapshots: Snapshots

    def close(self) -> None:
        """Let go of threads and connections."""
        self.webhooks.close()
        self.streams.close()
        self.core.close()
