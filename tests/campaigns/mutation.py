"""Mutation testing of what decides about cookies, plans and policies: would the tests notice?

    python -m tests.campaigns.mutation                        # every mutant; a line for each survivor
    python -m tests.campaigns.mutation --seed 7 --count 200   # some
    python -m tests.campaigns.mutation --tests tests/test_client.py --modules policy   # scores low

Each mutant (`tests.campaigns.mutants`) meets the tests that run its lines, the fastest first, until one
fails. They are collected once; a fork per mutant changes the code of one function in place, wherever it was
imported, and runs them. What runs while modules are imported or tests collected is changed in a fresh
process, before the import. A mutant that runs out of time is noticed.

`tests.campaigns.equivalent` names the mutants that no test can notice, with the reason. They count as
survivors, but are not shown.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.abc
import importlib.util
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, Final

import pytest

from tests.campaigns.equivalent import is_equivalent, stale
from tests.campaigns.mutants import Mutant, mutants_of

__all__ = ["MODULES", "Campaign", "main"]

ROOT = Path(__file__).parents[2]
PACKAGE = "session_middleware"
UNCHANGED = "unchanged"
AT_LEAST = 0.9  # of the mutants are to be found out
PATIENCE = 60  # seconds of CPU for the tests of one mutant
BROKEN = 70  # how a process ends in which not a test, but this program failed
ENDINGS = {0, 1, 2, 4, -signal.SIGXCPU, -signal.SIGALRM}  # passed; failed; not collected; over its time
STANDSTILL = 900  # seconds of the clock, for those that wait for ever

MODULES: Final = ("changes", "cookies", "opening", "plan", "policy")
"""What decides who is let in, what is saved, and how long it lives."""

PINNED_BY: Final = {
    "changes": ("tests/test_plan.py", "tests/life/test_values_in_sessions.py"),
    "cookies": ("tests/test_cookies.py", "tests/security/test_reference.py"),
    "opening": ("tests/test_opening.py",),
    "plan": ("tests/test_plan.py", "tests/life/test_commit_table.py"),
    "policy": ("tests/test_policy.py", "tests/test_opening.py"),
}
"""The tests that are asked about a module where it has to be changed before it is imported."""

TESTS: Final = (
    *sorted({path for paths in PINNED_BY.values() for path in paths if not path.startswith("tests/life")}),
    "tests/test_session.py",
    "tests/test_configuration.py",
    "tests/life",
)
"""The tests that are asked otherwise: fast ones that pin them all."""

# --- the mutants ---


def source_of(module: str) -> str:
    return (ROOT / PACKAGE / f"{module}.py").read_text(encoding="utf-8")


def all_mutants(modules: Iterable[str]) -> list[Mutant]:
    return [mutant for module in modules for mutant in mutants_of(module, source_of(module))]


def compiled(mutant: Mutant | None, module: str) -> CodeType:
    """The module's code, changed."""
    source = ast.parse(source_of(module))
    tree = source if mutant is None else mutant.tree(source)
    code: CodeType = compile(tree, str(ROOT / PACKAGE / f"{module}.py"), "exec")
    return code


def codes_within(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_within(constant)


def functions_of(module: ModuleType) -> dict[tuple[str, int], FunctionType]:
    """Every function that the module defines, by qualified name and first line."""
    found: dict[tuple[str, int], FunctionType] = {}
    for value in [*vars(module).values()]:
        inside = (
            vars(value).values() if isinstance(value, type) and value.__module__ == module.__name__ else ()
        )
        for each in (value, *inside):
            function = plain(each)
            if isinstance(function, FunctionType) and function.__code__.co_filename == module.__file__:
                code = function.__code__
                found[code.co_qualname, code.co_firstlineno] = function
    return found


def plain(value: object) -> object:
    """The function in a method, a property, or a cache."""
    for inner in ("__func__", "fget", "__wrapped__"):
        value = getattr(value, inner, None) or value
    return value


def place(mutant: Mutant) -> bool:
    """Change a function in place; False where that cannot be done."""
    module = sys.modules[f"{PACKAGE}.{mutant.module}"]
    function = functions_of(module).get((mutant.function, mutant.starts))
    if function is None or not mutant.starts:
        return False
    for code in codes_within(compiled(mutant, mutant.module)):
        if (code.co_qualname, code.co_firstlineno) == (mutant.function, mutant.starts):
            if code.co_freevars != function.__code__.co_freevars:
                return False
            function.__code__ = code
            return True
    return False


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module changed."""

    def __init__(self, module: str, mutant: Mutant | None) -> None:
        self._name = f"{PACKAGE}.{module}"
        self._code = compiled(mutant, module)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != self._name:
            return None
        origin = self._code.co_filename
        return importlib.util.spec_from_file_location(fullname, origin, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, vars(module))  # noqa: S102 -- our own source, changed


# --- the tests ---


class Watch:
    """Which lines of the modules were run since one last asked."""

    def __init__(self, modules: Iterable[str]) -> None:
        self._files = {str(ROOT / PACKAGE / f"{module}.py"): module for module in modules}
        self._lines: set[tuple[str, int]] = set()

    def taken(self) -> list[tuple[str, int]]:
        """Those lines. Watching begins when this is first called."""
        threading.settrace(self._call)
        sys.settrace(self._call)
        lines, self._lines = sorted(self._lines), set()
        return lines

    def end(self) -> None:
        """Watch no longer."""
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]

    def _call(self, frame: FrameType, _: str, __: object) -> Any:
        module = self._files.get(frame.f_code.co_filename)
        if module is None:
            return None

        def line(frame: FrameType, _: str, __: object) -> Any:
            self._lines.add((module, frame.f_lineno))
            return line

        return line(frame, "", None)


class Selection:
    """A pytest plugin that leaves out tests over anything but memory and an event loop."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self._is_fast(item)]

    def _is_fast(self, item: pytest.Item) -> bool:
        params: dict[str, object] = (
            item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        )
        return params.get("backend", "memory") == "memory" and params.get("driver", "async") == "async"


class Campaign(Selection):
    """A pytest plugin that runs what was collected once per mutant, each time in a process of its own."""

    def __init__(self, mutants: Sequence[Mutant], modules: Sequence[str], given: argparse.Namespace) -> None:
        self.mutants, self.modules, self.given = mutants, modules, given
        self.survivors: list[Mutant] = []
        self.timed_out = 0
        self.failed = False
        self._running: dict[int, Mutant] = {}
        self._ran: dict[tuple[str, int], list[int]] = {}  # a line of a module: tests, the fastest first
        self._early: set[tuple[str, int]] = set()  # lines that run while the tests are collected
        self._watch = Watch(modules)
        self._scratch = tempfile.TemporaryDirectory()

    # --- what pytest calls ---

    def pytest_collection(self) -> None:
        self._watch.taken()
        for module in self.modules:
            importlib.import_module(f"{PACKAGE}.{module}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._early = set(self._watch.taken())
        self._watch.end()
        with self._scratch:
            self._learn(session.items)
            for number, mutant in enumerate(self.mutants):
                while len(self._running) >= self.given.jobs:
                    self._reap()
                self._running[self._fork(session.items, mutant, number)] = mutant
            while self._running:
                self._reap()
        return True

    # --- before ---

    def _learn(self, items: Sequence[pytest.Item]) -> None:
        """Run all as it is: how long each test takes, and which lines it runs."""
        took = self._learned("took", items, time.process_time)
        with_lines = self._learned("lines", items, self._watch.taken)
        for number in sorted(range(len(items)), key=lambda number: took[number + 1] - took[number]):
            for module, line in with_lines[number + 1]:
                self._ran.setdefault((module, line), []).append(number)

    def _learned(self, name: str, items: Sequence[pytest.Item], note: Callable[[], Any]) -> list[Any]:
        """What *note* says before the first test, and after each, in a process of their own."""
        notes = Path(self._scratch.name) / f"{name}.json"
        child = os.fork()
        if not child:
            self._prepare(name, limited=False)
            noted = [note(), *(note() for _ in self._run(items))]
            notes.write_text(json.dumps(noted))
            os._exit(self.failed)
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f"the tests fail without any change (status {status})")
        learned: list[Any] = json.loads(notes.read_text())
        return learned

    def _run(self, items: Sequence[pytest.Item]) -> Iterator[None]:
        for item, following in itertools.pairwise([*items, None]):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            yield

    # --- one mutant ---

    def _fork(self, items: Sequence[pytest.Item], mutant: Mutant, number: int) -> int:
        child = os.fork()
        if not child:
            try:
                self._prepare(str(number), limited=True)
                self._meet(items, mutant)
            except BaseException:  # noqa: BLE001 -- this process is a copy: nothing of it may unwind further
                sys.__stderr__.write(traceback.format_exc())
            os._exit(BROKEN)
        return child

    def _meet(self, items: Sequence[pytest.Item], mutant: Mutant) -> None:
        """End this process as the tests of this mutant do."""
        is_placed = place(mutant)
        for _ in self._run([items[test] for test in self._tests_of(mutant)] if is_placed else []):
            if self.failed:
                os._exit(1)
        if not is_placed or self._early.intersection((mutant.module, line) for line in mutant.lines):
            os.execv(sys.executable, afresh(mutant.module, mutant.name, self.given.tests))  # noqa: S606 -- ours
        os._exit(0)

    def _tests_of(self, mutant: Mutant) -> list[int]:
        found: dict[int, None] = {}
        for line in mutant.lines:
            found |= dict.fromkeys(self._ran.get((mutant.module, line), ()))
        return list(found)

    def _prepare(self, name: str, *, limited: bool) -> None:
        """Be a process that says nothing, writes to a folder of its own, and comes to an end."""
        folder = Path(self._scratch.name) / name
        folder.mkdir()
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
        sys.__stderr__ = os.fdopen(os.dup(2), "w", buffering=1)  # type: ignore[misc]  # for us alone
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        if limited:
            resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE + 5))
            signal.alarm(STANDSTILL)

    def _reap(self) -> None:
        child, status = os.wait()
        mutant, ended = self._running.pop(child), os.waitstatus_to_exitcode(status)
        if ended not in ENDINGS:
            raise RuntimeError(f"{mutant.name}: the harness itself failed (status {ended})")
        self.timed_out += ended < 0
        if ended == 0:
            self.survivors.append(mutant)
            self._tell(mutant)

    def _tell(self, mutant: Mutant) -> None:
        if not is_equivalent(mutant.name):
            sys.__stdout__.write(f"{mutant.lines.start}: {mutant.name}\n")
            sys.__stdout__.flush()


def options(tests: Sequence[str]) -> list[str]:
    return ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--capture=no", *tests]


def afresh(module: str, name: str, tests: Iterable[str] | None) -> list[str]:
    """The command that runs one mutant in a fresh process."""
    tests = tests or PINNED_BY[module]
    return [sys.executable, "-m", __spec__.name, "--modules", module, "--only", name, "--tests", *tests]


def run_afresh(module: str, mutant: Mutant | None, tests: Sequence[str]) -> int:
    """Status 0 if all tests pass over the module, changed before it is imported."""
    sys.meta_path.insert(0, Finder(module, mutant))
    return int(pytest.main(options(tests), plugins=[Selection()]))


def main() -> int:
    """Exit status 0 if enough mutants were noticed, or if `--only` names one that was not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="so many of them by chance; all of them if left out")
    parser.add_argument("--modules", nargs="+", default=MODULES)
    parser.add_argument("--tests", nargs="+", help="instead of those that pin the modules")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", help="run this mutant in this process, by its name")
    given = parser.parse_args()
    mutants = all_mutants(given.modules)
    if given.only is not None:
        found = None if given.only == UNCHANGED else named(given.only, mutants)
        return run_afresh(given.modules[0], found, given.tests or PINNED_BY[given.modules[0]])
    if given.count is not None:
        mutants = Random(given.seed).sample(mutants, given.count)
    elif outdated := stale(mutant.name for mutant in all_mutants(MODULES)):
        sys.stdout.write("equivalent, but there is no such mutant: " + "\n".join(outdated) + "\n")
    return hunt(mutants, given)


def named(name: str, mutants: Iterable[Mutant]) -> Mutant:
    return next(mutant for mutant in mutants if mutant.name == name)


def hunt(mutants: Sequence[Mutant], given: argparse.Namespace) -> int:
    began = time.perf_counter()
    for module in given.modules:
        subprocess.run(afresh(module, UNCHANGED, given.tests), check=True, stdout=subprocess.DEVNULL)
    campaign = Campaign(mutants, given.modules, given)
    status = pytest.main(options(given.tests or TESTS), plugins=[campaign])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return int(status)
    survived = len(campaign.survivors)
    equivalent = sum(is_equivalent(mutant.name) for mutant in campaign.survivors)
    noticed = 1 - survived / len(mutants)
    sys.stdout.write(
        f"{', '.join(given.modules)}: {len(mutants)} mutants, {len(mutants) - survived} noticed "
        f"({noticed:.1%}; {campaign.timed_out} of them by time), {equivalent} of the other "
        f"{survived} are equivalent, {time.perf_counter() - began:.0f} s\n"
    )
    return int(noticed < AT_LEAST)


if __name__ == "__main__":
    sys.exit(main())
