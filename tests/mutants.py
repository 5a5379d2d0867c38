"""Change one thing in the code at a time and see whether a test notices: ``make mutants``.

A change that no test notices is a *survivor*: a test is missing, or the change means nothing. ``docs/mutants.md`` lists
the survivors that mean nothing, each with its reason; any other one makes the run fail.

The tests that cover a module run once, each in turn, and it is noted which functions of the module each one calls. Then
each mutant is tried in a fork of that process: the function gets its changed code, and the tests that call it run, the
shortest first, until one fails. The source on disk stays as it is. Tests whose servers are processes of their own cover
nothing here; nor do those on PostgreSQL, which take longer.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import hypothesis
import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).resolve().parent.parent
EXPLAINED = ROOT / "docs" / "mutants.md"
CALLED = "_called_by_this_test"  # a set in the module, while it is noted what each test calls
LEAST_SECONDS = 20  # of one mutant, on top of ten times what its tests took; one that takes longer is found
LONGEST_WORDS = 120  # of a name, for each side
CODES = ("tests/security/test_codes.py", "tests/web/test_way.py")
SERVICES = "auth_portal.services"
COVERED_BY: dict[str, tuple[str, ...]] = {
    f"{SERVICES}.verification.prove": (
        *CODES, "tests/security/test_journeys.py", "tests/security/test_changed_contacts.py", "tests/methods",
        "tests/security/test_macs.py", "tests/security/test_chat_macs.py", "tests/security/test_limits.py",
    ),
    f"{SERVICES}.verification.tries": (
        *CODES, "tests/services/test_tries.py", "tests/security/test_limits.py", "tests/security/test_tickets.py",
        "tests/security/test_chat_macs.py", "tests/security/test_journeys.py",
    ),
    f"{SERVICES}.verification.case": (*CODES, "tests/security/test_journeys.py", "tests/security/test_changed_contacts.py", "tests/security/test_tickets.py", "tests/web/test_tickets.py"),
    f"{SERVICES}.verification.begin": (*CODES, "tests/security/test_tickets.py", "tests/web/test_tickets.py", "tests/security/test_limits.py"),
    f"{SERVICES}.verification.codes": (
        *CODES, "tests/security/test_limits.py", "tests/security/test_changed_contacts.py", "tests/services/test_stories.py",
    ),
    f"{SERVICES}.verification.end": (
        *CODES, "tests/security/test_journeys.py", "tests/web/test_tickets.py", "tests/services/test_stories.py",
        "tests/security/test_chat_macs.py", "tests/security/test_privacy.py", "tests/security/test_changed_results.py",
    ),
    f"{SERVICES}.verification.moves": (*CODES, "tests/security/test_journeys.py", "tests/security/test_chat_macs.py", "tests/services/test_stories.py"),
    f"{SERVICES}.verification.tickets": ("tests/security/test_tickets.py", "tests/web/test_tickets.py", "tests/services/test_tickets.py", "tests/api/test_tickets.py"),
    f"{SERVICES}.verification.references": ("tests/web/test_reference.py", "tests/security/test_fuzzing.py", "tests/admin/test_verifications.py"),
    f"{SERVICES}.limits": ("tests/services/test_limits.py", "tests/security/test_limits.py", "tests/security/test_pumping.py", "tests/services/test_alerts.py", "tests/security/test_tickets.py"),
    f"{SERVICES}.delivery.outbox": (
        "tests/outbox/test_backlog.py", "tests/outbox/test_messages.py", "tests/security/test_journeys.py",
        "tests/services/test_delivery_lists.py", "tests/outbox/test_restored.py", "tests/services/test_alerts.py",
        "tests/security/test_chat_macs.py",
    ),
    "auth_portal.gateways.addresses": ("tests/gateways/test_outbound.py", "tests/gateways/test_flow.py"),
}  # fmt: skip
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
SAYS_ONLY = {"log", "log_event"}  # calls that only tell: what they say is tested where it matters


@dataclass(frozen=True)
class Mutant:
    """One change: where it is, in words that outlive other changes, and the tree with it."""

    name: str
    tree: ast.Module


def mutants_of(source: str) -> list[Mutant]:
    """Return every mutant of a module's source."""
    tree = ast.parse(source)
    found: list[Mutant] = []
    names: Counter[str] = Counter()
    for place, qualname in _places(tree):
        for before, after, changed in _changes(tree, place):
            name = f"{qualname}: `{before}` becomes `{after}`"
            names[name] += 1
            found.append(Mutant(name + (f" ({names[name]})" if names[name] > 1 else ""), changed))
    return found


def _places(tree: ast.Module) -> Iterator[tuple[list[tuple[str, int | None]], str]]:
    """Yield the path to every node that may be changed, and the function that it is in."""

    def walk(node: ast.AST, path: list[tuple[str, int | None]], qualname: str) -> Iterator[Any]:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            qualname = f"{qualname}.{node.name}".lstrip(".")
        yield path, qualname or "module"
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "bases", "type_params", "defaults", "kw_defaults"):
                continue
            if isinstance(value, list):
                for number, child in enumerate(value):
                    if isinstance(child, ast.AST) and not _is_quiet(child):
                        yield from walk(child, [*path, (name, number)], qualname)
            elif isinstance(value, ast.AST) and not _is_quiet(value):
                yield from walk(value, [*path, (name, None)], qualname)

    yield from walk(tree, [], "")


def _is_quiet(node: ast.AST) -> bool:
    """Return True for what does nothing, or only tells: imports, docstrings and log lines."""
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.Assert, ast.JoinedStr)):
        return True
    if not isinstance(node, ast.Expr):
        return False
    call = node.value
    if isinstance(call, ast.Constant):
        return True
    named = call.func if isinstance(call, ast.Call) else None
    return (isinstance(named, ast.Attribute) and named.attr in SAYS_ONLY) or (
        isinstance(named, ast.Name) and named.id in SAYS_ONLY
    )


def _at(tree: ast.AST, path: Sequence[tuple[str, int | None]]) -> Any:
    node: Any = tree
    for name, number in path:
        node = getattr(node, name) if number is None else getattr(node, name)[number]
    return node


def _changes(tree: ast.Module, path: list[tuple[str, int | None]]) -> Iterator[tuple[str, str, ast.Module]]:
    """Yield the changes of one node: its words before and after, and the whole tree with it."""
    node = _at(tree, path)
    for after in _replacements(node):
        changed = deepcopy(tree)
        parent = _at(changed, path[:-1])
        name, number = path[-1]
        if number is None:
            setattr(parent, name, after)
        else:
            getattr(parent, name)[number] = after
        changed = ast.fix_missing_locations(deepcopy(changed))
        yield _words(node), _words(after), changed


def _words(node: ast.AST) -> str:
    text = " ".join((f"if {ast.unparse(node.test)}" if isinstance(node, ast.If) else ast.unparse(node)).split())
    return text if len(text) <= LONGEST_WORDS else f"{text[: LONGEST_WORDS - 30]} … {text[-27:]}"


def _replacements(node: Any) -> Iterator[ast.AST]:
    """Yield what may stand in a node's place."""
    yield from _other_statements(node) if isinstance(node, ast.stmt) else _other_expressions(node)


def _other_expressions(node: Any) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare):
        for number, operator in enumerate(node.ops):
            if other := SWAPPED.get(type(operator)):
                yield _with(node, ops=[*node.ops[:number], other(), *node.ops[number + 1 :]])
    elif isinstance(node, (ast.BoolOp, ast.BinOp)) and (other := SWAPPED.get(type(node.op))):
        yield _with(node, op=other())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.Invert)):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        yield ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
    elif isinstance(node, ast.IfExp):
        yield _with(node, body=node.orelse, orelse=node.body)


def _other_statements(node: Any) -> Iterator[ast.AST]:
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    if isinstance(node, ast.If) and not _is_negated_inside(node.test):
        yield _with(node, test=ast.UnaryOp(op=ast.Not(), operand=node.test))
    elif is_call or isinstance(node, (ast.Raise, ast.Continue, ast.Break)):
        yield ast.Pass()
    elif isinstance(node, ast.Return) and node.value is not None and not _is_false(node.value):
        yield ast.Return(value=ast.Constant(None))


def _with(node: Any, **changes: Any) -> ast.AST:
    """Return a copy of a node with other fields."""
    copy: ast.AST = type(node)(**{**dict(ast.iter_fields(node)), **changes})
    return copy


def _is_negated_inside(test: ast.expr) -> bool:
    """Return True for a condition whose own mutant is its contrary."""
    one = test.ops[0] if isinstance(test, ast.Compare) and len(test.ops) == 1 else getattr(test, "op", None)
    return isinstance(one, (ast.Not, ast.Is, ast.IsNot, ast.In, ast.NotIn, ast.Eq, ast.NotEq))


def _is_false(node: ast.AST) -> bool:
    """Return True for None, and for False, which only becomes True: whether it is one or the other means nothing."""
    return isinstance(node, ast.Constant) and (node.value is None or node.value is False)


# --- The run


def path_of(module: str) -> Path:
    """Return the file of a module."""
    return ROOT / Path(*module.split(".")).with_suffix(".py")


class Hunt:
    """A plugin of pytest: notes what each test calls, and then tries the mutants of one module."""

    def __init__(self, module: str, seconds: float, seed: int) -> None:
        self.module, self._path, self._seconds = module, str(path_of(module)), seconds
        source = path_of(module).read_text()
        self._mutants = mutants_of(source)
        self.count = len(self._mutants)
        self._order = list(range(self.count))
        random.Random(seed).shuffle(self._order)
        self._calls: dict[str, list[tuple[float, pytest.Item]]] = {}
        self._is_repeatable: dict[str, bool] = {}
        self.tried, self.uncovered, self.tests = 0, 0, 0
        self.survivors: list[str] = []
        self._caches: list[Any] = []  # the functions of the module whose result is kept

    def pytest_configure(self) -> None:
        """Let tests with drawn values stop at the first that fails, without looking for a shorter one."""
        phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
        hypothesis.settings.register_profile("mutants", deadline=None, database=None, phases=phases)
        hypothesis.settings.load_profile("mutants")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run in place of pytest's own loop."""
        module = importlib.import_module(self.module)
        live, self._caches = functions_of(module), [one for one in vars(module).values() if hasattr(one, "cache_clear")]
        self._learn(session.items, module, live)
        ends_at = time.monotonic() + self._seconds
        for number in self._order:
            if time.monotonic() > ends_at:
                break
            mutant = self._mutants[number]
            name = mutant.name.partition(":")[0]
            if name not in live or not self._calls.get(name):
                self.uncovered += 1
                continue
            self.tried += 1
            if not self._is_noticed(mutant, live[name], name):
                self.survivors.append(f"{self.module.rpartition('.')[2]}.{mutant.name}")
        return True

    def _learn(self, items: Sequence[pytest.Item], module: ModuleType, live: dict[str, FunctionType]) -> None:
        """Run each test once, and note which functions it calls: until then each function says so itself."""
        called: set[str] = set()
        setattr(module, CALLED, called)
        before = {name: function.__code__ for name, function in live.items()}
        noting = compile(noting_calls(ast.parse(Path(self._path).read_text())), self._path, "exec")
        for function in live.values():
            with suppress(LookupError):  # what a decorator has written
                function.__code__ = code_of(noting, function.__code__.co_qualname)
        for item, after in zip(items, [*items[1:], None], strict=True):
            self._clear_caches()  # what was made once for all tests shall be called by each
            called.clear()
            began = time.monotonic()
            reports = runtestprotocol(item, nextitem=after, log=False)
            self.tests += 1
            if all(report.passed for report in reports):
                for name in called & set(live):
                    self._calls.setdefault(name, []).append((time.monotonic() - began, item))
        for name, function in live.items():
            function.__code__ = before[name]
            self._calls.get(name, []).sort(key=lambda one: one[0])

    def _clear_caches(self) -> None:
        for cached in self._caches:
            cached.cache_clear()

    def _is_noticed(self, mutant: Mutant, function: FunctionType, name: str) -> bool:
        """Return True if a test fails with this mutant, or does not end, that passes in a fork without it."""
        unchanged = Mutant("unchanged", ast.parse(Path(self._path).read_text()))
        while (tests := self._calls[name]) and (failed := self._first_failing(mutant, function, tests)) is not None:
            test = tests[failed][1].nodeid
            if test not in self._is_repeatable:
                only = [tests[failed]]
                self._is_repeatable[test] = self._first_failing(unchanged, function, only) is None
            if self._is_repeatable[test]:
                tests.insert(0, tests.pop(failed))  # it is likely to notice the next one as well
                return True
            for calls in self._calls.values():  # it would notice every mutant
                calls[:] = [one for one in calls if one[1].nodeid != test]
        return False

    def _first_failing(
        self, mutant: Mutant, function: FunctionType, tests: Sequence[tuple[float, pytest.Item]]
    ) -> int | None:
        """Return the number of the first test that fails with this mutant, or does not end; None if none does."""
        code = code_of(compile(mutant.tree, self._path, "exec"), function.__code__.co_qualname)
        news, says = os.pipe()
        child = os.fork()
        if not child:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            self._clear_caches()
            is_well = False
            try:
                function.__code__ = code
                items = [item for _seconds, item in tests]
                follows = zip(items, [*items[1:], None], strict=True)
                is_well = all(self._passes(item, after) for item, after in follows if os.write(says, b"."))
            finally:
                os._exit(int(not is_well))
        os.close(says)
        is_well = self._ends_well(child, LEAST_SECONDS + 10 * sum(seconds for seconds, _item in tests))
        with open(news, "rb") as pipe:
            begun = len(os.read(pipe.fileno(), len(tests)))
        return None if is_well else max(begun - 1, 0)

    @staticmethod
    def _ends_well(child: int, seconds: float) -> bool:
        """Wait for a process; return False if it fails or takes longer."""
        give_up_at = time.monotonic() + seconds
        while time.monotonic() < give_up_at:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status) == 0
            time.sleep(0.02)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False

    @staticmethod
    def _passes(item: pytest.Item, after: pytest.Item | None) -> bool:
        """Run a test; what it shares with the one after it stays."""
        return all(report.passed for report in runtestprotocol(item, nextitem=after, log=False))


def functions_of(module: ModuleType) -> dict[str, FunctionType]:
    """Return the functions and methods of a module by their qualified names."""
    found: dict[str, FunctionType] = {}
    for value in vars(module).values():
        members = vars(value).values() if isinstance(value, type) and value.__module__ == module.__name__ else [value]
        for member in members:
            plain = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "func", None) or member)
            plain = getattr(plain, "__func__", plain)
            if isinstance(plain, FunctionType) and plain.__module__ == module.__name__:
                found[plain.__qualname__] = plain
    return found


def noting_calls(tree: ast.Module) -> ast.Module:
    """Return the tree with a line in each function and method that notes its qualified name in ``CALLED``."""
    for place in tree.body:
        for one in place.body if isinstance(place, ast.ClassDef) else [place]:
            if isinstance(one, ast.FunctionDef):
                name = one.name if one is place else f"{place.name}.{one.name}"  # type: ignore[attr-defined]
                one.body[:0] = ast.parse(f"{CALLED}.add({name!r})").body
    return ast.fix_missing_locations(tree)


def code_of(code: CodeType, qualname: str) -> CodeType:
    """Return the code of a function in that of its module."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_qualname == qualname:
                return constant
            if qualname.startswith(f"{constant.co_qualname}."):
                return code_of(constant, qualname)
    raise LookupError(qualname)


def main() -> int:
    """Try the mutants of each module in a random order until its share of the time is over; 1 if one survives unexplained."""
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument(
        "--module", nargs="*", default=[], help="the ends of their names, such as tries; all by default"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    chosen = parser.parse_args()
    os.nice(10)
    modules = [name for name in COVERED_BY if not chosen.module or name.rpartition(".")[2] in chosen.module]
    explained = " ".join(EXPLAINED.read_text().split())
    is_well = True
    for module in modules:
        hunter = os.fork()  # each begins with nothing imported
        if not hunter:
            os._exit(hunt(Hunt(module, chosen.minutes * 60 / len(modules), chosen.seed), explained))
        is_well = os.waitstatus_to_exitcode(os.waitpid(hunter, 0)[1]) == 0 and is_well
    return int(not is_well)


def hunt(plugin: Hunt, explained: str) -> int:
    """Run pytest with this plugin and print what it found; 1 if a survivor is not explained."""
    options = ["-q", "-n", "0", "-p", "no:randomly", "-p", "no:cacheprovider", "-k", "not postgresql"]
    output = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    status = pytest.main([*options, *COVERED_BY[plugin.module]], plugins=[plugin])
    os.dup2(output, 1)
    assert status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), "no test ran"
    print(
        f"{plugin.module}: {plugin.tried} of {plugin.count} mutants tried, {len(plugin.survivors)} survived;"
        f" {plugin.uncovered} more are in nothing that these tests call ({plugin.tests} tests)"
    )
    for name in plugin.survivors:
        print(f"  {'explained' if f'{name}:' in explained else 'SURVIVES '} {name}", flush=True)
    return int(any(f"{name}:" not in explained for name in plugin.survivors))


if __name__ == "__main__":
    sys.exit(main())
