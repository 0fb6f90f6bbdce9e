"""Methods are found by name, by module and class, or given as classes."""

from __future__ import annotations

import sys

import pytest

from baselines import registry
from baselines.errors import UserError
from baselines.method import Method, Options, Plan
from baselines.methods.gmp import Gmp
from baselines.registry import find_method, methods, register
from launch.config.run import Run

OWN = """
from dataclasses import dataclass

from baselines import Method, Options


@dataclass(frozen=True)
class OwnOptions(Options):
    at: float = 0.5


class Own(Method[OwnOptions]):
    name = "own"


class Nameless(Method[Options]):
    pass


class Escaping(Method[Options]):
    name = "../own"


class Other:
    name = "other"


number = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Put a user's package on Python's path."""
    (tmp_path / "ownpackage").mkdir()
    (tmp_path / "ownpackage" / "__init__.py").touch()
    (tmp_path / "ownpackage" / "module.py").write_text(OWN)
    (tmp_path / "ownpackage" / "broken.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "ownpackage"]:
        del sys.modules[name]


@pytest.fixture
def empty(monkeypatch):
    """Start with an empty registry."""
    monkeypatch.setattr(registry, "_REGISTERED", {})


def test_methods_are_sorted_and_found_by_name():
    found = methods()
    assert list(found) == sorted(found) and {"dense", "rigl", "fixed"} <= found.keys()
    assert all(find_method(name) is cls and cls.name == name for name, cls in found.items())


def test_a_class_is_found_as_itself():
    assert find_method(Gmp) is Gmp


def test_a_class_of_ones_own_is_found_by_its_module(package):
    method = find_method("ownpackage.module:Own")
    assert method.name == "own" and method.options_class.make(at=1).at == 1.0
    assert "own" not in methods()


def test_a_run_of_it_is_named_after_the_class(package):
    run = Run.make("digits", "ownpackage.module:Own", at=0.25, seed=3)
    assert run.method == "ownpackage.module:Own" and run.label == "own (at=0.25)"
    assert run.name.startswith("digits-own-s0.9-seed3-")
    assert run.name != Run.make("digits", "ownpackage.module:Own", seed=3).name


@pytest.mark.parametrize(
    "text, message",
    [
        ("rigll", "unknown method 'rigll', did you mean rigl"),
        ("ownpackage.none:Own", "No module named 'ownpackage.none'"),
        ("ownpackage.broken:Own", "No module named 'no_such_module'"),
        ("ownpackage.module:Owm", "module ownpackage.module has no Owm"),
        ("ownpackage.module:Other", "Other'> is not a subclass of baselines.method.Method"),
        ("ownpackage.module:number", "3 is not a subclass of baselines.method.Method"),
        ("ownpackage.module:Nameless", "ownpackage.module:Nameless: name must consist of"),
        ("ownpackage.module:Escaping", "not '../own'"),
        (":Own", "write package.module:Class"),
        (".module:Own", "write package.module:Class"),
        ("ownpackage.module:", "write package.module:Class"),
    ],
)
def test_what_cannot_be_found_is_one_line(package, text, message):
    with pytest.raises(UserError, match=message) as raised:
        find_method(text)
    assert "\n" not in str(raised.value)


def test_what_is_not_a_method_is_refused():
    with pytest.raises(UserError, match="not a subclass"):
        find_method(Plan)
    with pytest.raises(UserError, match="not a subclass"):
        register(Options)


def test_two_classes_cannot_have_one_name(empty):
    @register
    class One(Method[Options]):
        name = "same"

    with pytest.raises(UserError, match=r"One has the name 'same' already"):

        @register
        class Two(Method[Options]):
            name = "same"

    assert {"same": One} == registry._REGISTERED


def test_a_class_that_is_defined_again_replaces_itself(empty):
    def define():
        @register
        class Again(Method[Options]):
            name = "again"

        return Again

    define()
    latest = define()
    assert {"again": latest} == registry._REGISTERED
