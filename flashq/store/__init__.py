"""Everything kept in the broker, and the only package that talks to it (the only user of redis and rq)."""
