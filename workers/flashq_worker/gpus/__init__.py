"""The GPUs of this machine: `nvml` reads them, `records` says what follows from that."""
