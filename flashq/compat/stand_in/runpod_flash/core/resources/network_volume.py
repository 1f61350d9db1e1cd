"""Network volumes."""

from flashq.compat.names import NetworkVolume

__all__ = ["NetworkVolume"]
