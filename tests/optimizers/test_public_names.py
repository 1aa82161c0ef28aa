"""What `from optimizers import ...` offers: every method by name, loaded when it is first used."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import optimizers
from optimizers import MethodInfo, list_methods
from optimizers.registry import names
from suite.config.registry import description, family, read

OURS = [one for one in list_methods() if one.target.startswith("optimizers.")]
ONLY_TORCH = """
import sys
import torch
before = {name.partition(".")[0] for name in sys.modules}
import optimizers
after = {name.partition(".")[0] for name in sys.modules} - {"optimizers"}
of_torch = {"_remote_module_non_scriptable"}  # written by torch.distributed when it is loaded
print(sorted(after - before - of_torch - set(sys.stdlib_module_names)))
print(sorted(name for name in sys.modules if name.startswith("optimizers.matrix")))
optimizers.SOAP
print("optimizers.matrix.soap" in sys.modules)
"""


def test_the_import_needs_torch_alone_and_loads_no_method() -> None:
    run = subprocess.run(
        [sys.executable, "-c", ONLY_TORCH], check=True, capture_output=True, text=True
    )
    assert run.stdout.split("\n")[:3] == ["[]", "[]", "True"]


@pytest.mark.parametrize("method", OURS, ids=lambda one: one.name)
def test_every_method_of_the_registry_is_a_name_of_the_package(method: MethodInfo) -> None:
    module, _, name = method.target.rpartition(".")
    assert getattr(optimizers, name) is getattr(import_module(module), name)
    assert name in optimizers.__all__
    assert name in dir(optimizers)


def test_type_checkers_see_the_methods_that_are_loaded_late() -> None:
    tree = ast.parse(Path(optimizers.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = {
        alias.name: str(node.module).removeprefix("optimizers.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imports == optimizers.FAMILY_OF
    assert set(imports) <= set(optimizers.__all__)
    assert all(hasattr(optimizers, name) for name in optimizers.__all__)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'KFACK'"):
        optimizers.KFACK  # noqa: B018


def test_methods_are_listed_with_class_family_and_description() -> None:
    assert [one.name for one in list_methods()] == names()
    assert list_methods("KFA?") == [
        MethodInfo(
            "kfac",
            "optimizers.natural_gradient.KFAC",
            "natural gradient",
            "K-FAC: natural gradient with a Kronecker-factored Fisher matrix.",
        )
    ]
    assert {one.name for one in list_methods("*newton*")} >= {"newton", "newton_cg", "gauss_newton"}
    assert list_methods("no such method") == []


@pytest.mark.parametrize("method", list_methods(), ids=lambda one: one.name)
def test_the_list_agrees_with_the_registry_of_the_suite(method: MethodInfo) -> None:
    node = read("optimizer", method.name)
    assert method.target == node["_target_"]
    assert method.family == family(node)
    assert method.description == description("optimizer", method.name)
