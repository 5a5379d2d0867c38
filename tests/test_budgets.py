"""How far a reader has to jump: the files of the package that a request passes, and how often it changes between them.

Counted at run time, in the thread of the request, with everything cached that a process caches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType

import auth_portal
from tests.world import World

PACKAGE = str(Path(auth_portal.__file__).parent)


def files_called(request: Callable[[], object]) -> list[str]:
    """Return the file of each call into the package, in order."""
    seen: list[str] = []

    def note(frame: FrameType, kind: str, _arg: object) -> None:
        if kind == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            seen.append(frame.f_code.co_filename.removeprefix(f"{PACKAGE}/"))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        request()
    finally:
        sys.setprofile(before)
    return seen


def assert_within(seen: list[str], *, files: int, changes: int) -> None:
    changed = [(here, there) for here, there in pairwise(seen) if here != there]
    assert len(set(seen)) <= files, sorted(set(seen))
    assert len(changed) <= changes, "\n".join(f"{here} -> {there}" for here, there in changed)


def test_beginning_passes_few_files(small_world: World) -> None:
    browser = small_world.browser()
    browser.begin("warm")
    browser.client.delete_cookie("verification", domain="127.0.0.1")
    browser.open("abc")
    small_world.services.journeys._read_at = float("inf")
    seen = files_called(lambda: browser.post("/", follow=False, identifier="C-1001"))
    assert browser.page.headers["Location"].partition("?")[0] == "/verify"
    assert_within(seen, files=15, changes=44)


def test_a_wrong_code_passes_few_files(small_world: World) -> None:
    browser = small_world.browser()
    browser.begin("abc")
    browser.prove("000000", follow=False)
    small_world.services.journeys._read_at = float("inf")
    seen = files_called(lambda: browser.prove("111111", follow=False))
    assert browser.page.status_code == 422
    assert_within(seen, files=14, changes=40)
