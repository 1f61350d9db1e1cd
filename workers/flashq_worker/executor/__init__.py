"""The executor: the child process that holds the loaded function and runs jobs.

It runs in the endpoint's own environment, so everything here uses the standard library and cloudpickle only.
It knows nothing of broker, keys or leases: frames in, frames out.
"""
