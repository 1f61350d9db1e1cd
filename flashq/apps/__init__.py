"""Apps: a project built into one artifact, and deployed: its endpoints by name, what they need installed beforehand.

Light to import: `located` is loaded by executors, which have the standard library alone.
"""
