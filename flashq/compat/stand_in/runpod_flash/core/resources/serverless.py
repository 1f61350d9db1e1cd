"""Parameters in the cloud's spelling."""

from flashq.compat.names import (
    CudaVersion,
    ServerlessEndpoint,
    ServerlessResource,
    ServerlessScalerType,
    ServerlessType,
)

__all__ = [
    "CudaVersion",
    "ServerlessEndpoint",
    "ServerlessResource",
    "ServerlessScalerType",
    "ServerlessType",
]
