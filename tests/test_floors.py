"""Who may import whom, and what may not be imported or called at all.

Reading order: the tables (`FLOORS`, `SIDEWAYS`, `LATE`), the tests on the package, then the controls: made-up
trees with one fault each, which the same functions must find. The functions are at the end.

Imports are read from the syntax tree, so those inside functions and under `if TYPE_CHECKING` count like any
other, and so does `import_module("...")` of a literal name.
"""

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "session_middleware"

# A file imports only from floors below its own. Names are relative to the package, `__init__` is the package
# itself, and `folder.*` is whatever lies in the folder.
FLOORS: dict[int, tuple[str, ...]] = {
    0: ("errors", "headers", "outage", "budget"),
    1: ("values", "policy", "blocking", "loops", "rates"),
    2: ("record", "salvage", "client", "configuration", "reconfiguration"),
    3: (
        "jobs",
        "session",
        "cookies",
        "events",
        "where",
        "backends.base",
        "backends.capabilities",
        "backends.hiding",
        "backends",
    ),
    4: (
        "opening",
        "changes",
        "activity",
        "old_cookies",
        "turns",
        "reporting",
        "settling",
        "backends.sql",
        "backends.coalesce",
        "backends.sqlite_handles",
        "backends.births",
        "backends.seen",
        "backends.redis_clients",
        "backends.redis_store",
    ),
    5: (
        "backends.sql_queries",
        "backends.sql_mending",
        "backends.sql_caps",
        "backends.sql_figures",
        "backends.memory_queries",
        "backends.memory_caps",
        "plan",
        "core",
        "logging",
        "limits",
        "backends.memory",
        "backends.urls",
        "backends.sqlite_file",
        "backends.sqlite_batches",
        "backends.sqlite_links",
        "backends.postgres_links",
        "backends.postgres_sql",
        "backends.redis_links",
        "backends.redis_records",
    ),
    6: (
        "perform",
        "backends.sqlite_port",
        "backends.postgres_caps",
        "backends.redis_queries",
        "backends.moving",
    ),
    7: (
        "backends.postgres_port",
        "backends.redis_caps",
        "watching",
        "importing",
        "migration",
        "operations.*",
        "backends.sqlite_async",
        "backends.sqlite_blocking",
    ),
    8: ("cleanup", "heartbeat", "lifetime", "backends.sqlite", "backends.postgres", "backends.redis_port"),
    9: ("manager", "backends.redis"),
    10: (
        "progress",
        "finding",
        "exchange",
        "sockets",
        "arguments",
        "housekeeping",
        "wsgi_exchange",
        "wsgi",
        "monitoring.*",
        "state.*",
    ),
    11: ("asgi", "typed", "fastapi", "flask", "streamlit", "cli.*", "dashboard.*", "testing.*"),
    12: ("__init__", "__main__"),
}

# Imports within one floor: (importer, imported), with the reason. Files of one `folder.*` may import each
# other; circles are found everywhere.
SIDEWAYS: frozenset[tuple[str, str]] = frozenset(
    {
        ("session", "jobs"),  # a session shows what its job has put into it
        ("backends.urls", "backends.memory"),  # an address names a backend
        ("backends.capabilities", "where"),  # what a port finds sessions by
        ("backends.capabilities", "backends.base"),
        ("backends.memory", "backends.memory_caps"),
        ("backends.memory", "backends.memory_queries"),  # one class, in two files
        ("sockets", "exchange"),  # what it keeps by name
        ("wsgi_exchange", "exchange"),  # the same request, driven to its end in one thread
        ("wsgi_exchange", "housekeeping"),
        ("wsgi", "arguments"),
        ("arguments", "monitoring.monitor"),  # an entrance attaches one by default
        ("wsgi", "wsgi_exchange"),  # the entrance and its requests
        ("fastapi", "typed"),  # a framework's file hands out typed sessions in its own idiom
    },
)

# Imports that go up, legal only inside a function or under TYPE_CHECKING: the importer hands out what lies
# above it and builds on nothing of it.
LATE: frozenset[tuple[str, str]] = frozenset(
    {
        *(
            (package, f"backends.{name}")
            for package in ("backends", "backends.urls")
            for name in ("sqlite", "postgres", "redis")
        ),
        ("backends", "backends.memory"),
        ("backends", "backends.urls"),
    },
)

# The core decides and performs without knowing what drives it.
_DRIVING = frozenset(
    {
        *(
            "loops",
            "cleanup",
            "heartbeat",
            "watching",
            "rates",
            "backends.memory",
            "backends.memory_queries",
            "backends.memory_caps",
            "backends.coalesce",
            "backends.sqlite",
            "backends.postgres",
            "backends.postgres_links",
            "backends.redis",
            "backends.redis_links",
        ),
        *(f"backends.sqlite_{name}" for name in ("file", "handles", "batches", "links", "port", "async")),
    }
)
CORE = frozenset(name for floor in range(10) for name in FLOORS[floor]) - _DRIVING
DRIVERS = frozenset({"anyio", "asyncio", "concurrent", "multiprocessing", "sniffio", "threading", "trio"})

# Modules that turn stored bytes into code. YAML has no use here, so no need to tell its loaders apart.
UNSAFE_MODULES = frozenset(
    {"_pickle", "cloudpickle", "dill", "jsonpickle", "marshal", "pickle", "shelve", "yaml"},
)
UNSAFE_CALLS = frozenset({"eval", "exec"})

# What `import session_middleware` may not bring along.
OPTIONAL = frozenset(
    {
        "aiosqlite",
        "click",
        "ddsketch",
        "fastapi",
        "flask",
        "limits",
        "opentelemetry",
        "prometheus_client",
        "psycopg",
        "redis",
        "streamlit",
        "trio",
        "uvicorn",
    },
)


# The package


def test_imports_follow_the_floors() -> None:
    assert floor_faults(ROOT / PACKAGE) == []


def test_the_core_knows_nothing_of_event_loops_and_threads() -> None:
    assert driver_faults(ROOT / PACKAGE) == []


def test_a_driver_in_a_folder_of_the_core_is_found(tree: Path) -> None:
    write(tree, "operations/base", "import threading\n__all__ = []\n")
    assert driver_faults(tree) == ["operations.base:1 imports threading"]


def test_nothing_stored_is_ever_run() -> None:
    assert unsafe_faults(ROOT / PACKAGE) == []


def test_every_module_names_what_it_offers_and_has_it() -> None:
    assert all_faults(ROOT / PACKAGE) == []


def test_importing_the_package_brings_no_extra_and_no_database_along() -> None:
    assert modules_loaded_by(PACKAGE, ROOT) & OPTIONAL == set()


def test_the_tables_contradict_neither_themselves_nor_each_other() -> None:
    listed = [name for names in FLOORS.values() for name in names]
    assert len(listed) == len(set(listed))
    assert all(floor_of(a) == floor_of(b) for a, b in SIDEWAYS)
    assert None not in {floor_of(name) for pair in SIDEWAYS | LATE for name in pair}


# The controls: each fault is found where it is made on purpose


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package without a fault."""
    folder = tmp_path / PACKAGE
    write(folder, "__init__", "from session_middleware.manager import M\n__all__ = ['M']\n")
    write(folder, "errors", "__all__ = ['E']\nclass E(Exception): ...\n")
    write(folder, "record", "from session_middleware.errors import E\n__all__ = ['R']\nR = E\n")
    write(folder, "policy", "__all__ = []\n")
    write(folder, "manager", "from .record import R\n__all__ = ['M']\nM = R\n")
    write(folder, "backends/__init__", "__all__ = []\n")
    write(folder, "backends/base", "from session_middleware.record import R\n__all__ = ['R']\n")
    return folder


def test_a_tree_without_a_fault_passes(tree: Path) -> None:
    checks = (floor_faults, driver_faults, unsafe_faults, all_faults)
    assert [check(tree) for check in checks] == [[], [], [], []]


@pytest.mark.parametrize(
    "source",
    [
        "from session_middleware.manager import M",
        "import session_middleware.manager",
        "from session_middleware import manager",
        "from . import manager",
        "from .manager import M",
        "from session_middleware import M",
        "def late():\n    from session_middleware.manager import M",
        "class C:\n    async def late(self):\n        from . import manager",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from session_middleware.manager import M",
        "from importlib import import_module\ndef late():\n    import_module('session_middleware.manager')",
        "import importlib\nimportlib.import_module('.manager', 'session_middleware')",
        "__import__('session_middleware.manager')",
    ],
)
def test_a_step_up_is_found_however_it_is_written(tree: Path, source: str) -> None:
    write(tree, "policy", source)
    assert any("policy imports" in fault and "above" in fault for fault in floor_faults(tree))


def test_a_circle_is_found_and_drawn(tree: Path) -> None:
    write(tree, "errors", "def late():\n    from session_middleware.record import R\n")
    assert "a circle: errors -> record -> errors" in floor_faults(tree)


def test_a_circle_within_one_folder_is_found(tree: Path) -> None:
    write(tree, "monitoring/__init__", "")
    write(tree, "monitoring/rules", "from . import rates")
    write(tree, "monitoring/rates", "from .rules import rule")
    assert floor_faults(tree) == ["a circle: monitoring.rates -> monitoring.rules -> monitoring.rates"]


def test_a_folder_may_import_within_itself_but_not_from_its_neighbour(tree: Path) -> None:
    for name in ("monitoring/__init__", "monitoring/rates", "state/__init__"):
        write(tree, name, "")
    write(tree, "monitoring/rules", "from . import rates")
    assert floor_faults(tree) == []
    write(tree, "state/forms", "from session_middleware.monitoring import rates")
    assert [fault for fault in floor_faults(tree) if "SIDEWAYS" in fault]


def test_an_undeclared_import_within_a_floor_is_found(tree: Path) -> None:
    write(tree, "opening", "def late():\n    from session_middleware.changes import Changes")
    assert any("SIDEWAYS" in fault for fault in floor_faults(tree))


def test_a_late_import_is_legal_in_a_function_only(tree: Path) -> None:
    write(tree, "backends/sqlite", "")
    write(tree, "backends/urls", "def late():\n    from session_middleware.backends import sqlite\n")
    assert floor_faults(tree) == []
    write(tree, "backends/urls", "from session_middleware.backends import sqlite\n")
    assert any("inside a function" in fault for fault in floor_faults(tree))


def test_a_file_without_a_floor_is_found_with_the_place_to_add_it(tree: Path) -> None:
    write(tree, "helpers", "")
    assert floor_faults(tree) == ["helpers has no floor: add it to FLOORS in tests/test_floors.py"]


def test_an_event_loop_in_the_core_is_found_and_one_in_a_port_is_not(tree: Path) -> None:
    write(tree, "backends/sqlite", "import asyncio, threading\n")
    assert driver_faults(tree) == []
    write(tree, "manager", "def late():\n    from asyncio.locks import Lock\n")
    assert driver_faults(tree) == ["manager:2 imports asyncio"]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import os, marshal as m",
        "def late():\n    import shelve",
        "from importlib import import_module\nimport_module('pickle')",
        "__import__('marshal')",
        "import yaml\nyaml.load('a')",
        "eval('1')",
        "import builtins\nbuiltins.exec('1')",
        "run = eval",
        "from builtins import exec as run",
    ],
)
def test_whatever_runs_stored_bytes_is_found(tree: Path, source: str) -> None:
    write(tree, "policy", source)
    assert unsafe_faults(tree)


def test_words_that_only_resemble_it_are_left_alone(tree: Path) -> None:
    write(tree, "policy", "'''No pickle, no eval.'''\nimport re\nre.compile('exec')\ncursor.exec('x')\n")
    assert unsafe_faults(tree) == []


def test_a_name_that_is_offered_but_missing_is_found(tree: Path) -> None:
    write(tree, "policy", "__all__ = ['Policy']\n")
    assert all_faults(tree) == ["policy offers Policy and does not have it"]


def test_a_module_that_offers_nothing_by_name_is_found(tree: Path) -> None:
    write(tree, "policy", "Policy = 1\n")
    assert all_faults(tree) == ["policy has no __all__"]


def test_an_extra_that_comes_along_is_found(tmp_path: Path) -> None:
    write(tmp_path, "eager/__init__", "from eager import port\n")
    write(tmp_path, "eager/port", "import aiosqlite\n")
    assert modules_loaded_by("eager", tmp_path) & OPTIONAL == {"aiosqlite"}


# How faults are found


class Import(NamedTuple):
    """One import of one module: a dotted name, its line, and whether only a function or checker runs it."""

    name: str
    line: int
    late: bool


def write(folder: Path, name: str, source: str) -> None:
    path = folder / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")


def modules(folder: Path) -> dict[str, ast.Module]:
    """Each file by its name relative to the package: `errors`, `backends`, `backends.base`, `__init__`."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        dotted = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[dotted] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def floor_of(name: str) -> int | None:
    wanted = {name, f"{name}.*", f"{top(name)}.*"}
    return next((floor for floor, names in FLOORS.items() if wanted & set(names)), None)


def top(name: str) -> str:
    return name.partition(".")[0]


def floor_faults(folder: Path) -> list[str]:
    trees = modules(folder)
    homeless = [name for name in trees if floor_of(name) is None]
    faults = [f"{name} has no floor: add it to FLOORS in tests/test_floors.py" for name in homeless]
    edges = {name: list(inner_imports(folder, name, trees)) for name in trees if name not in homeless}
    for name, imports in edges.items():
        faults += [fault for each in imports if (fault := edge_fault(name, each)) is not None]
    return list(dict.fromkeys(faults)) + [f"a circle: {' -> '.join(circle)}" for circle in circles(edges)]


def edge_fault(importer: str, found: Import) -> str | None:
    """What is wrong with one import inside the package, or None."""
    own, other, pair = floor_of(importer), floor_of(found.name), (importer, found.name)
    said = f"{importer} imports {found.name} (line {found.line})"
    if own is None or other is None or other < own or pair in SIDEWAYS:
        return None
    if pair in LATE:
        return None if found.late else f"{said}: it may do so inside a function only"
    if other > own:
        return f"{said}, which lies above it: floor {other} over {own}"
    if top(importer) == top(found.name) and f"{top(importer)}.*" in FLOORS[own]:
        return None
    return f"{said}, of its own floor: declare it in SIDEWAYS in tests/test_floors.py, with the reason"


def inner_imports(folder: Path, importer: str, trees: dict[str, ast.Module]) -> Iterator[Import]:
    """The imports that stay in the package, by relative names. `from folder import file` means the file."""
    for found in imports_of(trees[importer], package_of(folder, importer)):
        if found.name != PACKAGE and not found.name.startswith(f"{PACKAGE}."):
            continue
        name = found.name.removeprefix(PACKAGE).removeprefix(".") or "__init__"
        while name not in trees and "." in name:  # a name inside a module: the module
            name = name.rpartition(".")[0]
        if name not in trees and floor_of(name) is None:  # a name of the package's own front page
            name = "__init__"
        if name != importer:
            yield Import(name, found.line, found.late)


def package_of(folder: Path, name: str) -> str:
    """The package that a relative import in this module starts from."""
    if name == "__init__":
        return PACKAGE
    is_package = (folder / name.replace(".", "/")).is_dir()
    return f"{PACKAGE}.{name}" if is_package else f"{PACKAGE}.{name}".rpartition(".")[0]


def imports_of(tree: ast.Module, package: str) -> Iterator[Import]:
    """Every import of the file. `from a import b` is reported as `a.b`: b may be a module."""
    late = late_nodes(tree)
    for node in ast.walk(tree):
        for name in names_imported(node, package):
            yield Import(name, line_of(node), node in late)


def line_of(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def names_imported(node: ast.AST, package: str) -> list[str]:
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            base = resolve("." * node.level + (node.module or ""), package)
            return [f"{base}.{alias.name}" for alias in node.names]
        case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]) if called(func) in IMPORTERS:
            return [resolve(name, package)]
    return []


IMPORTERS = frozenset({"__import__", "import_module"})


def called(func: ast.expr) -> str | None:
    """The last word of what is called: `import_module` of `importlib.import_module(...)`."""
    match func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return None


def resolve(name: str, package: str) -> str:
    level = len(name) - len(name.lstrip("."))
    if not level:
        return name
    parent = package.split(".")[: len(package.split(".")) - level + 1]
    return ".".join([*parent, name.lstrip(".")]).rstrip(".")


def late_nodes(tree: ast.Module) -> set[ast.AST]:
    """What does not run when the module is imported: bodies of functions, and what is there for checkers."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    roots = [node for node in ast.walk(tree) if isinstance(node, functions) or is_for_checkers(node)]
    return {inner for root in roots for inner in ast.walk(root)}


def is_for_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def circles(edges: dict[str, list[Import]]) -> Iterator[list[str]]:
    """Each circle once, from its first name in the alphabet back to it: the shortest way round."""
    follow = {name: sorted({each.name for each in found}) for name, found in edges.items()}
    for start in sorted(follow):
        queue, seen = [[start]], set()
        while queue:
            path = queue.pop(0)
            for name in follow.get(path[-1], ()):
                if name == start:
                    yield [*path, start]
                    queue.clear()
                    break
                if name > start and name not in seen:
                    seen.add(name)
                    queue.append([*path, name])


def driver_faults(folder: Path) -> list[str]:
    core = {name: tree for name, tree in modules(folder).items() if {name, f"{top(name)}.*"} & CORE}
    return list(outer_faults(folder, core, DRIVERS))


def unsafe_faults(folder: Path) -> list[str]:
    trees = modules(folder)
    names = [
        f"{name}:{line_of(node)} uses {word}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if (word := unsafe_word(node)) is not None
    ]
    return [*outer_faults(folder, trees, UNSAFE_MODULES), *names]


def outer_faults(folder: Path, trees: dict[str, ast.Module], banned: Iterable[str]) -> Iterator[str]:
    for name, tree in trees.items():
        for found in imports_of(tree, package_of(folder, name)):
            if top(found.name) in banned:
                yield f"{name}:{found.line} imports {top(found.name)}"


def unsafe_word(node: ast.AST) -> str | None:
    """`eval` or `exec` where the builtin is named, called or not."""
    match node:
        case ast.Name(id=word) | ast.Attribute(value=ast.Name(id="builtins" | "__builtins__"), attr=word):
            return word if word in UNSAFE_CALLS else None
        case ast.ImportFrom(module="builtins", names=names):
            return next((alias.name for alias in names if alias.name in UNSAFE_CALLS), None)
    return None


def all_faults(folder: Path) -> list[str]:
    faults = []
    for name, tree in modules(folder).items():
        offered = names_offered(tree)
        if offered is None:
            faults += [] if is_bare(tree) or name.endswith("__main__") else [f"{name} has no __all__"]
            continue
        missing = [each for each in offered if each not in names_bound(tree)]
        if missing and "__getattr__" in names_bound(tree):  # handed out late: ask the module itself
            module = importlib.import_module(PACKAGE if name == "__init__" else f"{PACKAGE}.{name}")
            missing = [each for each in missing if not hasattr(module, each)]
        faults += [f"{name} offers {each} and does not have it" for each in missing]
    return faults


def is_bare(tree: ast.Module) -> bool:
    """Nothing but a docstring."""
    return all(isinstance(node, ast.Expr) for node in tree.body)


def names_offered(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.expr() as value):
                return list(ast.literal_eval(value))
            case ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value):
                return list(ast.literal_eval(value))
    return None


def names_bound(tree: ast.Module) -> set[str]:
    """What the module's own scope binds, in whatever branch; not what functions and classes bind inside."""
    bound: set[str] = set()
    queue: list[ast.AST] = list(tree.body)
    while queue:
        node = queue.pop()
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
                continue
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                bound |= {alias.asname or alias.name.split(".")[0] for alias in names}
            case ast.Name(id=name, ctx=ast.Store()):
                bound.add(name)
        queue += ast.iter_child_nodes(node)
    return bound


def modules_loaded_by(package: str, path: Path) -> set[str]:
    """The top-level modules in memory after `import package`, in an interpreter of its own."""
    code = f"import sys, {package}; print(*{{name.split('.')[0] for name in sys.modules}})"
    env = {**os.environ, "PYTHONPATH": str(path)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return set(run.stdout.split())
