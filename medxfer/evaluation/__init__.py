"""Metrics with intervals, and figures. NumPy and SciPy only."""
