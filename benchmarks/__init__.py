"""How fast flashq is, beside the floor: `python -m benchmarks`. Only ratios within one run count."""
