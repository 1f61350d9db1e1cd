"""What only time and numbers show: `python -m benchmarks.endurance`."""
