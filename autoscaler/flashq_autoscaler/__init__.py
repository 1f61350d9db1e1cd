"""flashq's autoscaler: observe, decide, reconcile, apply.

`views`, `plan`, `decide`, `reconcile` and the modules they use are pure: `now` is an argument and nothing is
read, logged or drawn at random. The rest of the package talks to the broker.
"""
