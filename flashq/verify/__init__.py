"""Shows on somebody's own broker that nothing is lost while things break: `flashq verify`.

A campaign submits calls and injects faults into its own processes and connections; what was acknowledged, what ran
and what readers were told is written down outside the broker, and judged at the end. The faults, the workload and the
judgement are pure (`schedule`, `workload`, `check`); `stage` and `door` are what suffers, `faults` makes it suffer,
`campaign` puts them together.
"""
