"""Hostile input: every reader answers with a value or with one named error."""

from tests.fuzzing import classified, families

#: All families of readers, by name.
ALL = families.FAMILIES | classified.FAMILIES
