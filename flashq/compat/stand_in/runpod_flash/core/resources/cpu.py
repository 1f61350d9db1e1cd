"""Sizes of CPU workers."""

from flashq.compat.names import CpuInstanceType

__all__ = ["CpuInstanceType"]
