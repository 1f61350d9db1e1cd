"""The host agent: what a machine offers, and the workers, environments and zygotes that it keeps."""
