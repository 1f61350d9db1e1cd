"""Environments on a host: resolved and built with uv once, shared by its workers, and removed in the end."""
