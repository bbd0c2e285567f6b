"""Hostile input: every reader answers with a value or with one named error."""
