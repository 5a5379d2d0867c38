"""The thread behind every work of the background: when it works, how it stops, what a fault does to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from auth_portal.services.operations.dispatcher import QUICK_FOR_SECONDS, Loop, Pace
from tests.receiver import GIVE_UP_SECONDS, wait_for
from tests.security.tools import logged

NEVER = 3600.0


@contextmanager
def running(
    work: Callable[[], bool], *, every_seconds: float | Callable[[], float] = NEVER, rest_seconds: float = NEVER
) -> Iterator[Loop]:
    loop = Loop("rounds", work, every_seconds=every_seconds, rest_seconds=rest_seconds, fault="rounds_fault")
    loop.start()
    try:
        yield loop
    finally:
        loop.stop(GIVE_UP_SECONDS)


def thread_of(loop: Loop) -> threading.Thread:
    return loop._thread


class Rounds:
    """Work that counts its rounds, and may have more to do, raise, or hold until it is let go."""

    def __init__(self, answers: list[bool | Exception] | None = None, *, holds: bool = False) -> None:
        self.count = 0
        self.is_held = threading.Event()
        self.let_go = threading.Event()
        self._holds = holds
        self._answers = answers or []

    def __call__(self) -> bool:
        self.count += 1
        if self._holds:
            self.is_held.set()
            assert self.let_go.wait(GIVE_UP_SECONDS)
        answer = self._answers.pop(0) if self._answers else False
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_it_works_when_it_is_woken_and_goes_on_while_there_is_more() -> None:
    rounds = Rounds([True, True, False])
    with running(rounds) as loop:
        assert rounds.count == 0, "a start is no wake"
        loop.wake()
        wait_for(lambda: rounds.count == 3)
        loop.wake()
        wait_for(lambda: rounds.count == 4)


def test_it_works_without_a_wake_too() -> None:
    rounds = Rounds()
    with running(rounds, every_seconds=0.001):
        wait_for(lambda: rounds.count > 2)


def test_a_wake_during_a_round_is_not_lost() -> None:
    rounds = Rounds(holds=True)
    with running(rounds) as loop:
        loop.wake()
        assert rounds.is_held.wait(GIVE_UP_SECONDS)
        loop.wake()
        rounds.let_go.set()
        wait_for(lambda: rounds.count == 2)


def test_a_stop_waits_for_the_round_that_is_under_way_and_begins_no_other() -> None:
    rounds = Rounds([True] * 10, holds=True)
    with running(rounds) as loop:
        loop.wake()
        assert rounds.is_held.wait(GIVE_UP_SECONDS)
        loop.stop(0.001)
        assert thread_of(loop).is_alive(), "the round goes on, longer than the caller would wait"
        assert loop.is_stopping()
        rounds.let_go.set()
        loop.stop(GIVE_UP_SECONDS)
        assert not thread_of(loop).is_alive()
    assert rounds.count == 1


def test_a_loop_that_was_never_started_can_be_stopped() -> None:
    rounds = Rounds()
    loop = Loop("rounds", rounds, every_seconds=0.001, fault="rounds_fault")
    loop.stop(GIVE_UP_SECONDS)
    assert rounds.count == 0
    assert loop.is_stopping()


def test_a_fault_is_logged_and_ends_nothing() -> None:
    rounds = Rounds([OSError("the disk is full"), False])
    with logged() as log, running(rounds, rest_seconds=0.001) as loop:
        loop.wake()
        wait_for(log.getvalue)
        loop.wake()
        wait_for(lambda: rounds.count == 2)
    (line,) = map(json.loads, log.getvalue().splitlines())
    assert (line["event"], line["thread"], line["error"]) == ("rounds_fault", "rounds", "OSError")


def test_a_stop_does_not_wait_for_the_rest_after_a_fault() -> None:
    rounds = Rounds([OSError("the disk is full")])
    with running(rounds, rest_seconds=NEVER) as loop:
        loop.wake()
        wait_for(lambda: rounds.count == 1)
        loop.stop(GIVE_UP_SECONDS)
        assert not thread_of(loop).is_alive()


def test_looks_are_quick_for_a_minute_after_there_was_work_and_then_rare() -> None:
    moments = [0.0]
    pace = Pace(0.1, 0.5, lambda: moments[-1])
    assert pace.seconds() == 0.5, "nothing was ever found"
    pace.note_work()
    assert pace.seconds() == 0.1
    moments.append(QUICK_FOR_SECONDS - 1)
    assert pace.seconds() == 0.1
    moments.append(QUICK_FOR_SECONDS)
    assert pace.seconds() == 0.5
    assert Pace(0.5, 0.1).seconds() == 0.5, "idle is never quicker"


def test_a_loop_asks_before_each_wait_how_long_it_is() -> None:
    waits, rounds = [0.002, 0.001], Rounds()
    with running(rounds, every_seconds=lambda: waits.pop() if waits else NEVER):
        wait_for(lambda: rounds.count == 2)
