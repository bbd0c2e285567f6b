import ast
import pathlib

import pytest

import medxfer

PACKAGE = pathlib.Path(medxfer.__file__).parent
FILES = [p for part in ("models", "tuning") for p in sorted((PACKAGE / part).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_needs_keras_only(path):
    """Networks and tuning run on any of Keras' backends."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {node.module or ""} | {f"{node.module}.{a.name}" for a in node.names}
    assert not [name for name in imported if name.split(".")[0] in ("tensorflow", "torch", "jax")]
