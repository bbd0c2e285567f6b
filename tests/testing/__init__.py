"""Reusable test cases: a new plug-in subclasses one of them."""
