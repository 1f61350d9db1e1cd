"""What `runpod_flash` offers, in one place: the modules of `stand_in/` take their names from here."""

from __future__ import annotations

from flashq.compat.client import EndpointJob
from flashq.compat.cloud import (
    CPU_DATACENTERS,
    CudaVersion,
    DataCenter,
    KeyValuePair,
    NetworkVolume,
    PodTemplate,
    ServerlessType,
)
from flashq.compat.endpoint import Endpoint
from flashq.compat.resources import (
    CpuLiveLoadBalancer,
    CpuLiveServerless,
    CpuLoadBalancerSlsResource,
    CpuServerlessEndpoint,
    FlashApp,
    LiveLoadBalancer,
    LiveServerless,
    LoadBalancerSlsResource,
    ResourceManager,
    ServerlessEndpoint,
    ServerlessResource,
    remote,
)
from flashq.model.resources import CpuInstanceType, GpuGroup, GpuType, ServerlessScalerType

DEFAULT_WORKERS_MIN = 0
DEFAULT_WORKERS_MAX = 1

__all__ = [
    "CPU_DATACENTERS",
    "DEFAULT_WORKERS_MAX",
    "DEFAULT_WORKERS_MIN",
    "CpuInstanceType",
    "CpuLiveLoadBalancer",
    "CpuLiveServerless",
    "CpuLoadBalancerSlsResource",
    "CpuServerlessEndpoint",
    "CudaVersion",
    "DataCenter",
    "Endpoint",
    "EndpointJob",
    "FlashApp",
    "GpuGroup",
    "GpuType",
    "KeyValuePair",
    "LiveLoadBalancer",
    "LiveServerless",
    "LoadBalancerSlsResource",
    "NetworkVolume",
    "PodTemplate",
    "ResourceManager",
    "ServerlessEndpoint",
    "ServerlessResource",
    "ServerlessScalerType",
    "ServerlessType",
    "remote",
]
