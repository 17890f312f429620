"""Each module imports only from modules above it, without a circle, and autodiff appears in one file."""

import ast
import graphlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import rnn_jax

ROOT = Path(rnn_jax.__file__).parent
ORDER = [
    "types", "precision", "checks", "cells", "losses", "ops", "trajectory", "recurrence", "jacobian", "stack",
    "network", "gradients", "diagnostics", "testing", "interrupts", "train", "seeds", "checkpoint", "data",
    "experiment",
]  # fmt: skip
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
AUTODIFF = re.compile(r"\b(grad|value_and_grad|vjp|jvp|jacfwd|jacrev|jacobian|hessian|linearize|linear_transpose)\b")


def module(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path):
    """The modules a file imports from, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("rnn_jax."):
                yield name.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_import_from_above(path):
    here = ORDER.index(module(path))
    below = [name for name in imported(path) if ORDER.index(name) > here]
    assert not below, f"{path.name} imports from {below}"


def name_of(path):
    """The dotted name of a module."""
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def test_there_is_no_circle():
    """Of modules, whatever their folder; a package is made of what its own file imports."""
    files = {name_of(path): path for path in FILES}
    graph = {}
    for name, path in files.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                parts = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= parts if parts <= set(files) else parts | {node.module}
            elif isinstance(node, ast.Import):
                whole = any(alias.name.split(".")[0] == "rnn_jax" for alias in node.names)
                assert not whole, f"{name} imports all of rnn_jax: write `from rnn_jax.types import …` instead"
        graph[name] = {each for each in found if each in files}
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_autodiff_appears_in_one_file_only():
    """Names of JAX's differentiation transforms, as attributes of jax or imports from it."""
    users = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            attribute = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jax"
            if attribute and AUTODIFF.fullmatch(node.attr):
                users.add(path.name)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jax"):
                users.update(path.name for alias in node.names if AUTODIFF.fullmatch(alias.name))
    assert users == {"autodiff.py"}


def test_every_public_name_has_a_docstring():
    missing = [name for name in rnn_jax.__all__ if not (getattr(rnn_jax, name).__doc__ or "").strip()]
    assert not missing


def test_every_function_on_the_api_page_says_what_it_takes_and_returns_and_shows_an_example():
    """Each argument by its name; a generator says what it yields.  What returns None, or a context, need not."""
    entries = re.findall(r"^::: (\S+)$", (ROOT.parent / "docs/api.md").read_text(), re.MULTILINE)
    functions = {name: each for name in entries if inspect.isfunction(each := pkgutil.resolve_name(name))}
    assert len(functions) > 90
    missing = []
    for name, function in functions.items():
        signature, text = inspect.signature(function), inspect.getdoc(function)
        wanted = ["^Examples:$", *(rf"^  {parameter}: " for parameter in signature.parameters)]
        wanted += ["^Args:$"] if signature.parameters else []
        wanted += ["^(Returns|Yields):$"] if signature.return_annotation not in (None, Iterator[None]) else []
        missing += [(name, part) for part in wanted if not re.search(part, text, re.MULTILINE)]
    assert not missing
