"""Templates of pods."""

from flashq.compat.names import (
    KeyValuePair,
    PodTemplate,
)

__all__ = ["KeyValuePair", "PodTemplate"]
