"""What is wrong with a deployment, as one sees it from one machine, and what to do about each thing."""

from __future__ import annotations

from flashq.doctor.finding import Finding, State

__all__ = ["Finding", "State"]
