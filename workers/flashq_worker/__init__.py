"""The worker: a supervisor that talks to the broker, and one executor child that runs user code."""
