"""A finished comparison: its files read back, and drawn. Nothing here reads a model."""
