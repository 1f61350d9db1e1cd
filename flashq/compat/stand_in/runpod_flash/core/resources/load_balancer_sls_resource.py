"""Parameters in the cloud's spelling."""

from flashq.compat.names import (
    CpuLoadBalancerSlsResource,
    LoadBalancerSlsResource,
)

__all__ = ["CpuLoadBalancerSlsResource", "LoadBalancerSlsResource"]
