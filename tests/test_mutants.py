"""What ``make mutants`` changes, and what it leaves alone."""

from __future__ import annotations

import ast
from types import SimpleNamespace
from typing import Any

from tests.mutants import CALLED, code_of, mutants_of, noting_calls

SOURCE = '''
LIMIT = 5


class Gate:
    """Let few pass."""

    def passes(self, count: int) -> bool:
        """Return True for few."""
        log("asked", count=1)
        if count < LIMIT and not self.closed:
            note(count)
            return True
        return False
'''


def test_each_mutant_has_one_change_and_a_name_that_says_it() -> None:
    found = mutants_of(SOURCE)
    assert [one.name for one in found] == [
        "module: `5` becomes `6`",
        "Gate.passes: `if count < LIMIT and (not self.closed)` becomes `if not (count < LIMIT and (not self.closed))`",
        "Gate.passes: `count < LIMIT and (not self.closed)` becomes `count < LIMIT or not self.closed`",
        "Gate.passes: `count < LIMIT` becomes `count <= LIMIT`",
        "Gate.passes: `not self.closed` becomes `self.closed`",
        "Gate.passes: `note(count)` becomes `pass`",
        "Gate.passes: `return True` becomes `return None`",
        "Gate.passes: `True` becomes `False`",
        "Gate.passes: `False` becomes `True`",
    ]
    codes = {code_of(compile(one.tree, "gate.py", "exec"), "Gate.passes") for one in found}
    assert len(codes) == len(found), "what is outside of the function leaves its code as it was"


def test_a_function_notes_that_it_is_called() -> None:
    module: dict[str, object] = {CALLED: set(), "log": lambda *_args, **_facts: None}
    exec(compile(noting_calls(ast.parse(SOURCE)), "gate.py", "exec"), module)
    gate: Any = module["Gate"]
    assert module[CALLED] == set()
    assert gate.passes(SimpleNamespace(closed=True), 1) is False
    assert module[CALLED] == {"Gate.passes"}
