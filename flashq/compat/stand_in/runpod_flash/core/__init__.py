"""Where Flash keeps its resources."""
