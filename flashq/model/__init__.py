"""The rules of flashq as pure functions and values: no I/O, no clock, no randomness, no logging."""
