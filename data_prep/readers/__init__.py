"""Readers of raw studies: one file a kind of source."""
