"""How soon a job is back after what ran it was killed, beside other systems: `python -m benchmarks.recovery`."""
