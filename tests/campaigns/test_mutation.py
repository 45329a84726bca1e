"""That mutants are what they say, and are noticed by tests that look, and by no others."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaigns.equivalent import EQUIVALENT, is_equivalent, stale
from tests.campaigns.mutants import mutants_of
from tests.campaigns.mutation import MODULES, TESTS

ROOT = Path(__file__).parents[2]


def made_of(source: str) -> set[str]:
    """What a mutant changes, without the place."""
    return {mutant.name.partition(": ")[2] for mutant in mutants_of("m", source)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", {"a < b -> a <= b"}),
        ("a < b <= c", {"a < b <= c -> a <= b <= c", "a < b <= c -> a < b < c"}),
        ("a and b", {"a and b -> a or b", "a and b -> a", "a and b -> b"}),
        ("a or b or c", {f"a or b or c -> {new}" for new in ("a and b and c", "b or c", "a or c", "a or b")}),
        ("not a", {"not a -> a"}),
        ("a + b", {"a + b -> a - b"}),
        ("a | b", {"a | b -> a", "a | b -> b"}),
        ("x = 1", {"1 -> 2"}),
        ("x = True", {"True -> False"}),
        ("x = 'a'", {"'a' -> 'XXaXX'"}),
        ("x = b'a'", {"b'a' -> b'XXaXX'"}),
        ("x = f'{a}-{b}'", {"f'{a}-{b}' -> f'{a}XX-XX{b}'"}),
        ("x = a if b else c", {"b -> True", "b -> False"}),
        ("while a: b", {"a -> False"}),
        ("x = [a for a in b if c]", {"c -> True"}),
        ("def f(): return a", {"return a -> return None"}),
        ("a()", {"a() -> pass"}),
        ("a.b = c", {"a.b = c -> pass"}),
        ("a += b", {"a += b -> pass"}),
        ("x = a(b=c)", {"b=c -> nothing"}),
        ("x = min(a, b)", {"min(a, b) -> max(a, b)"}),
        ("x = a.lower()", {"a.lower() -> a.upper()"}),
        ("x = a[b:c]", {"b:c -> :c", "b:c -> b:"}),
        ("match a:\n case b if c: d\n case e: f", {"b -> nothing", "e -> nothing", "c -> True"}),
        ("if a: raise b('text')", {"a -> True", "a -> False", "raise b('text') -> pass"}),
    ],
)
def test_each_kind_of_code_is_changed(source: str, expected: set[str]) -> None:
    assert made_of(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "'''Text.'''",
        "import a\nfrom b import c",
        "__all__ = ['a']",
        "A: TypeAlias = 'int | str'",
        "def f(a: 'int' = b) -> 'str':\n '''Text.'''",
        "@a(1)\nclass B(C, d=True):\n '''Text.'''\n e: 'int'",
    ],
)
def test_what_decides_nothing_is_left_alone(source: str) -> None:
    assert made_of(source) == set()


def test_every_mutant_of_the_package_is_another_program_with_a_name_of_its_own() -> None:
    for module in MODULES:
        source = (ROOT / "session_middleware" / f"{module}.py").read_text(encoding="utf-8")
        tree, mutants = ast.parse(source), mutants_of(module, source)
        assert len({mutant.name for mutant in mutants}) == len(mutants) > 100
        plain = ast.dump(tree)
        assert all(ast.dump(mutant.tree(tree)) != plain for mutant in mutants[::100])
        assert ast.dump(tree) == plain


def test_a_default_of_an_argument_is_made_where_the_function_is() -> None:
    mutants = {mutant.name: mutant.starts for mutant in mutants_of("m", "x = 0\n@d\ndef f(a=1):\n b(2)\n")}
    assert mutants == {"m.<module>: 0 -> 1": 0, "m.f: 1 -> 2": 0, "m.f: b(2) -> pass": 2, "m.f: 2 -> 3": 2}


def test_an_excuse_holds_for_its_mutants_only_and_is_stale_once_they_are_gone() -> None:
    names = [name for names in EQUIVALENT.values() for name in names]
    assert [name for name in names if not is_equivalent(name.removesuffix("*"))] == []
    assert not is_equivalent("opening.open_promised: 0 -> 1")
    assert set(stale(names[1:])) <= {names[0]}
    assert set(stale([])) == set(names)


def test_every_file_of_tests_exists() -> None:
    assert [path for path in TESTS if not (ROOT / path).exists()] == []


def hunted(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "tests.campaigns.mutation", "--modules", "opening", "--seed", "3"]
    return subprocess.run([*program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_mutants_are_noticed_by_the_tests_of_their_module() -> None:
    done = hunted("--count", "8", "--tests", "tests/test_opening.py")
    assert (done.returncode, "8 mutants, 8 noticed" in done.stdout) == (0, True), done.stdout + done.stderr


def test_mutants_of_a_module_whose_tests_are_left_out_are_not_noticed() -> None:
    done = hunted("--count", "8", "--tests", "tests/test_client.py")
    assert (done.returncode, "8 mutants, 0 noticed" in done.stdout) == (1, True), done.stdout + done.stderr
