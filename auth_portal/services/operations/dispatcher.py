"""The background threads of a process: they empty the outbox, expire verifications, work on imports and tidy up.

Any number of dispatchers may run at the same time. Messages and callbacks have their own threads, so that neither waits
for the other. One target has all the threads that it can use as long as a few stay free for the others, so that a slow
server is no queue and a dead one slows no other (D5). What this process put into the outbox itself is looked for at
once; the rest at each poll. While there is something to send the polls are quick, and later rare: an idle portal leaves
its database alone.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from socket import gethostname

from auth_portal.services.alerts import EVERY_SECONDS, SILENT_SECONDS, Alerts
from auth_portal.services.delivery.outbox import ClaimedDelivery, FinishedAttempt, Outbox, Sender
from auth_portal.services.imports.store import LostLease
from auth_portal.services.imports.work import ImportWork, WorkerStop
from auth_portal.services.operations.retention import Housekeeping
from auth_portal.services.verification.end import Endings
from auth_portal.store.db import CHECK_SECONDS, ClockCheck, serve_no_customer, share_connections
from auth_portal.store.models import CALLBACK, EVENT, MESSAGE, DeliveryState
from auth_portal.telemetry import Origin, log_event, logger, origin, reason_of, request_id

MOST_DUE = 50  # deliveries that ``dispatch_due`` makes of each kind; a test drive has a handful
# A target holds at most so many times the threads that are left free: the dynamic threshold of Choudhury and Hahne
# (IEEE/ACM Transactions on Networking 6(2), 1998). One busy target gets 3/4 of all threads, two get 3/7 each, and
# however many there are, some are left for the next one.
MOST_HELD = 3
MOST_TOGETHER = 64  # attempts that one transaction records
TOGETHER_SECONDS = 0.003  # a recording costs as much as several deliveries: it waits for others that end so soon
USED_TOGETHER_SECONDS = 0.02  # the same while customers use the process, for those that they cause meanwhile
LOOK_PART = 4  # a claim costs as much as several deliveries: one follows when so large a part of the threads is free
INLINE_POLL_SECONDS = 0.5  # in a web process, which wakes its dispatcher itself
QUICK_FOR_SECONDS = 60.0  # after something was sent: its customer types the code, and then the result is due
GENTLE_SHARE = 0.08  # of the CPU of a process, which a backlog takes while customers use it
GENTLE_MOST_SECONDS = 0.5  # between two claims then: a customer may wait for something else than the CPU
GENTLE_CLAIM = 8  # deliveries at once meanwhile, so that no page waits for many of them
GENTLE_SECONDS = 0.005  # after which it looks whether customers are still there
COST_OF = 50  # deliveries over which their cost is averaged
SWEEP_SECONDS = 1.0
SEAL_SECONDS = 1.0  # an event that is deleted within this time does not show
IMPORT_POLL_SECONDS = 1.0  # the process that asked for an import wakes its own thread
IMPORT_TIDY_SECONDS = 60.0
HOUSEKEEPING_SECONDS = 60.0  # the first time too: a start has other things to do
REST_SECONDS = 2.0  # after a fault, mostly of the database: it needs no thread that asks again at once
IMPORT_REST_SECONDS = 5.0  # the import waits for its lease anyway
# A message leaves at a random moment within this time, so that the work of sending one never falls into the same moment
# after a beginning: in a web process, what it slows down would reveal that the person is a customer (R24).
SCATTER_SECONDS = {CALLBACK: 0.0, MESSAGE: 0.1, EVENT: 0.0}


class Pace:
    """How long the lanes of a process wait between two looks: ``quick`` seconds while there is work, then ``idle``."""

    def __init__(self, quick: float, idle: float, now: Callable[[], float] = time.monotonic) -> None:
        self._quick, self._idle, self._now = quick, max(quick, idle), now
        self._quick_until = -math.inf

    def note_work(self) -> None:
        """Look often from now on: more will follow soon."""
        self._quick_until = self._now() + QUICK_FOR_SECONDS

    def seconds(self) -> float:
        """Return how long to wait before the next look."""
        return self._quick if self._now() < self._quick_until else self._idle


class Loop:
    """One thread that runs ``work`` at each wake, and every ``every_seconds`` without one, until it is stopped.

    ``work`` returns True if there may be more to do at once; it is not called while ``may_work``, which tells whether
    the clock is right, returns False. A fault
    of either ends a round, never the thread: ``fault`` names the log event of a round that raised, ``rest_seconds`` is
    the pause after it. The first round comes after the first wake or the first wait, so that a start stays quick.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], bool],
        *,
        every_seconds: float | Callable[[], float],
        fault: str,
        may_work: Callable[[], bool] | None = None,
        rest_seconds: float = REST_SECONDS,
    ) -> None:
        self._work = work
        self._may_work = may_work
        self._every_seconds = every_seconds
        self._fault = fault
        self._rest_seconds = rest_seconds
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; return at once."""
        self._thread.start()

    def wake(self) -> None:
        """Run a round now; a wake during a round causes another one."""
        self._woken.set()

    def is_stopping(self) -> bool:
        """Return True once the loop was asked to stop; long work asks between two batches."""
        return self._stopping.is_set()

    def pause(self, seconds: float) -> None:
        """Wait inside a round, until the loop is asked to stop."""
        self._stopping.wait(seconds)

    def ask_to_stop(self) -> None:
        """Begin no new round. Return at once."""
        self._stopping.set()
        self._woken.set()

    def stop(self, seconds: float) -> None:
        """Stop, and wait up to ``seconds`` for the round under way. Safe if nothing was started."""
        self.ask_to_stop()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        # What asks whether the clock is right is refused by a transaction that begins after a jump.
        origin.set(Origin(is_judged=self._may_work is not None))
        serve_no_customer()
        while not self.is_stopping():
            self._woken.wait(self._every_seconds() if callable(self._every_seconds) else self._every_seconds)
            self._woken.clear()
            try:
                while not self.is_stopping() and (self._may_work is None or self._may_work()) and self._work():
                    pass
            except Exception:
                logger.exception(self._fault, extra={"portal_fields": {"thread": self._thread.name}})
                self._stopping.wait(self._rest_seconds)


class Crew:
    """Threads that deliver, each started when it is needed first.

    As few of them work as the other side's answers allow, because to wake one costs about as much as a delivery: a
    thread that takes a task wakes only one other, the last that came to rest, if another task waits. So none waits for
    a task that hangs, and a thread that has done its own takes the next.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._lock = threading.Lock()  # of all below
        self._tasks: deque[Callable[[], object]] = deque()
        self._threads: list[threading.Thread] = []
        self._resting: list[threading.Lock] = []  # each held, until its thread is woken
        self._coming = 0  # threads that were woken and have taken nothing yet
        self._is_closed = False

    def do(self, *tasks: Callable[[], object]) -> None:
        """Let threads do these in their order, as many at a time as there are threads. Raise RuntimeError if closed."""
        with self._lock:
            if self._is_closed:
                raise RuntimeError("these threads have ended")
            self._tasks.extend(tasks)
            self._wake_one()

    def close(self) -> None:
        """End the threads when they have done all that waits, and wait for that."""
        with self._lock:
            self._is_closed = True
            self._coming += len(self._resting)
            for rest in self._resting:
                rest.release()
            self._resting.clear()
        for thread in self._threads:
            thread.join()

    def _wake_one(self) -> None:
        """Wake a thread for the next task, or start one, unless one is on its way already. Called with the lock."""
        if not self._tasks or self._coming:
            return
        if self._resting:
            self._resting.pop().release()
            self._coming += 1
        elif len(self._threads) < self._most:
            name = f"{self._name}_{len(self._threads)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            with suppress(RuntimeError):  # no more threads: those that there are do it, or a later call finds one
                thread.start()
                self._threads.append(thread)
                self._coming += 1

    def _work(self) -> None:
        share_connections()
        rest = threading.Lock()
        rest.acquire()
        is_coming = True
        while True:
            with self._lock:
                self._coming -= is_coming
                task = self._tasks.popleft() if self._tasks else None
                if task is not None:
                    self._wake_one()
                elif self._is_closed:
                    return
                else:
                    self._resting.append(rest)
            if is_coming := task is None:
                rest.acquire()
                continue
            try:
                task()
            except Exception:
                logger.exception("delivery_fault")


class Lane:
    """One kind of delivery: a loop that claims, and threads that deliver. That of results is their ``Courier``.

    A thread whose attempt has ended leaves the report and is free, if another one is recording; that one then takes
    all reports that wait into its next transaction. While as many wait as it takes at once, nothing more is begun.
    """

    def __init__(
        self, kind: str, outbox: Outbox, sender: Sender, clock: ClockCheck, *, threads: int, pace: Pace
    ) -> None:
        self.kind = kind
        self._pace = pace
        self._threads = threads
        self.outbox = outbox
        self.send = sender.send
        self._note = sender.note
        self._finished: deque[FinishedAttempt] = deque()
        self._records = threading.Lock()  # held by the thread that records what others leave
        self.loop = Loop(
            f"{kind}-dispatcher",
            self._claim,
            every_seconds=pace.seconds,
            fault="dispatcher_fault",
            may_work=clock.is_right,
        )
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()
        self._is_open = False
        self._is_worth_a_look = False  # the last look left something or could not see all, or a delivery is due again
        self._is_more_due = False  # the last claim took as much as it could for a target
        self._cost = 0.0  # seconds of CPU that a delivery takes, on average
        self._rests_until = self._rests_to = 0.0  # by time.monotonic() and time.process_time()
        self._ended = 0  # attempts since the last look
        self._crew = Crew(threads, f"{kind}-delivery")

    def start(self) -> None:
        """Begin to look for work, at once."""
        self._is_open = True
        self.loop.start()
        self.loop.wake()

    def stop(self, seconds: float) -> None:
        """Claim and take nothing more, and wait for the deliveries under way."""
        self._is_open = False
        self.loop.stop(seconds)
        self._crew.close()

    def wake(self) -> None:
        """Look into the outbox: this process has committed something to it."""
        self.loop.wake()

    def reserve(self, target: str) -> bool:
        """Keep a thread for a target; return False if none is free for it."""
        with self._lock:
            is_free = self._may_begin() and room(self._threads, self._busy, target) > 0
            if is_free:
                self._busy[target] += 1
        return is_free

    def release(self, target: str, threads: int = 1) -> None:
        """Let others have threads that were kept, or have done their work."""
        with self._lock:
            self._busy[target] -= threads
            if not self._busy[target]:
                del self._busy[target]

    def _may_begin(self) -> bool:
        return self._is_open and len(self._finished) < MOST_TOGETHER

    def take(self, claimed: ClaimedDelivery) -> None:
        """Deliver what was committed as claimed. If the process stops at this moment, its lease brings it back."""
        self._pace.note_work()
        with suppress(RuntimeError):  # the threads have ended
            self._crew.do(partial(self._deliver, claimed))

    def _claim(self) -> bool:
        """Claim once and hand out; return True if there may be more to claim at once.

        A look comes before the claim, which costs more, and writers queue; except where the last claim left something.
        """
        self._crew.do()  # what no thread could be started for at once
        self._is_worth_a_look, self._ended = True, 0  # for each delivery that ends while this looks
        with self._lock:
            busy = self._busy.copy()
        full = [target for target in busy if room(self._threads, busy, target) <= 0]
        if busy.total() >= self._threads or not self._may_begin():
            return False
        if not (self._is_more_due and not full) and not self.outbox.has_due(self.kind, full):
            self._is_worth_a_look = bool(full)
            return False
        self._pace.note_work()
        time.sleep(random.uniform(0, SCATTER_SECONDS[self.kind]))  # noqa: S311
        most, began = self._give_way(), time.thread_time()
        claimed: list[ClaimedDelivery] = []
        kept: Counter[str] = Counter()

        def keep(target: str, _taken: Counter[str]) -> int:
            with self._lock:
                if more := min(room(self._threads, self._busy, target), most - kept.total()):
                    self._busy[target] += more
                    kept[target] += more
            return more

        try:
            claimed = self.outbox.claim(self.kind, most, keep)
        finally:
            taken = Counter(delivery.target for delivery in claimed)
            unused = kept - taken
            self._is_more_due = any(not unused[target] for target in taken)
            for target, count in unused.items():
                self.release(target, count)
        self._crew.do(*(partial(self._deliver, delivery) for delivery in claimed))
        spent = time.thread_time() - began + len(claimed) * self._cost
        self._rests_until = time.monotonic() + GENTLE_MOST_SECONDS
        self._rests_to = time.process_time() + spent / GENTLE_SHARE
        return bool(claimed and unused)  # one queue may have kept threads that another one of its target needs

    def _give_way(self) -> int:
        """Return how many to claim at once; first rest after the last ones, while customers use this process.

        So a backlog of results, or of events, takes GENTLE_SHARE of what the process does. What customers end meanwhile
        is handed over and does not wait here, and neither do messages, for which customers wait.
        """
        is_used = self.outbox.is_used_by_customers
        if self.kind == MESSAGE or not is_used():
            return self._threads
        while is_used() and time.process_time() < self._rests_to and time.monotonic() < self._rests_until:
            if self.loop.is_stopping():
                return 0
            self.loop.pause(GENTLE_SECONDS)
        return GENTLE_CLAIM

    def deliver(self, claimed: ClaimedDelivery) -> DeliveryState:
        """Send one claimed delivery and record it, in this thread; return where it stands then."""
        return self.outbox.record(self.send(claimed), self._note)

    def _deliver(self, claimed: ClaimedDelivery) -> None:
        began = time.thread_time()
        request_id.set(claimed.request_id or "")  # the log of its attempts names the request that caused it
        try:
            self._finished.append(self.send(claimed))
        except Exception:
            # The lease brings it back; the attempt stays on record as one of unknown fate.
            logger.exception("delivery_fault")
        self._free(claimed.target)
        while self._finished and self._records.acquire(blocking=False):  # looks again after each time it lets go
            try:
                alone = self._record_together()
                with self._lock:  # each may have to wait for another transaction
                    self._busy.update(finished.delivery.target for finished in alone)
            finally:
                self._records.release()
            for finished in alone:
                try:
                    self._crew.do(partial(self._record_alone, finished))
                except RuntimeError:  # the threads have ended
                    self._record_alone(finished)
        self._cost += (time.thread_time() - began - self._cost) / COST_OF

    def _record_together(self) -> list[FinishedAttempt]:
        """Record attempts that have ended, in one transaction; return those that have to be recorded alone."""
        with self._lock:
            under_way = self._busy.total()
        is_used = self.outbox.is_used_by_customers()  # then more verifications end soon
        if is_used or (under_way and len(self._finished) < MOST_TOGETHER):
            time.sleep(USED_TOGETHER_SECONDS if is_used else TOGETHER_SECONDS)
        finished = [self._finished.popleft() for _ in range(min(len(self._finished), MOST_TOGETHER))]
        try:
            stands = self.outbox.record_together(finished, self._note)
        except Exception as fault:
            why = reason_of(fault) or type(fault).__name__
            log_event("recorded_alone", level=logging.WARNING, kind=self.kind, count=len(finished), why=why)
            return finished
        self._look_again(is_over=DeliveryState.PENDING not in stands.values())
        return [one for one in finished if one.delivery.id not in stands]

    def _record_alone(self, finished: FinishedAttempt) -> None:
        is_over = False
        try:
            is_over = self.outbox.record(finished, self._note) is not DeliveryState.PENDING
        except Exception:
            logger.exception("delivery_fault")
        finally:
            self._free(finished.delivery.target, is_over=is_over)

    def _free(self, target: str, *, is_over: bool = True) -> None:
        """Free the thread of a delivery."""
        self.release(target)
        self._ended += 1  # a race may lose one, and then the next look is that much later
        self._look_again(is_over=is_over)

    def _look_again(self, *, is_over: bool) -> None:
        """Look for more deliveries if enough threads are free; what is not over may be due again."""
        self._is_worth_a_look |= not is_over
        is_enough = self._ended >= self._threads // LOOK_PART or not self._busy
        if is_enough and self._is_worth_a_look:
            self.loop.wake()


def room(threads: int, busy: Counter[str], target: str) -> int:
    """Return how many more of the threads a target may take, given how many each one holds now."""
    free, held = threads - busy.total(), busy[target]
    return max((MOST_HELD * free - held) // (MOST_HELD + 1), int(not held and free > 0))


class Lanes:
    """The lanes of callbacks, of messages, and of events for programs, in this order."""

    def __init__(
        self,
        outbox: Outbox,
        callbacks: Sender,
        messages: Sender,
        events: Sender,
        clock: ClockCheck,
        *,
        threads: Mapping[str, int],
        pace: Pace,
    ) -> None:
        self.clock = clock
        self.all = tuple(
            Lane(kind, outbox, sender, clock, threads=threads[kind], pace=pace)
            for kind, sender in ((CALLBACK, callbacks), (MESSAGE, messages), (EVENT, events))
        )

    def wake(self) -> None:
        """Look into the outbox: this process has committed something to it."""
        for lane in self.all:
            lane.wake()


class Dispatcher:
    """The lanes, the sweep, the work on imports, the housekeeping, the sealing, and other loops of one process."""

    def __init__(
        self,
        lanes: Lanes,
        endings: Endings,
        alerts: Alerts,
        import_work: ImportWork,
        housekeeping: Housekeeping,
        seal: Callable[[], bool],
        *others: Loop,
    ) -> None:
        self.wake = lanes.wake
        self.seal = seal
        self.lanes = lanes.all
        self._clock = lanes.clock
        is_right = self._clock.is_right  # what judges time waits until it is (D8)
        self._endings, self._alerts = endings, alerts
        self._import_work = import_work
        self._housekeeping = housekeeping
        self._tidy_imports_at = 0.0
        self._watch = Loop("clock", self._watch_clock, every_seconds=CHECK_SECONDS, fault="clock_fault")
        self._sweeper = Loop("expiry", self._sweep, every_seconds=SWEEP_SECONDS, fault="sweep_fault", may_work=is_right)
        # One thread, so that imports never take more than one of a server's cores.
        self._imports = Loop(
            "imports",
            self._work_on_imports,
            every_seconds=IMPORT_POLL_SECONDS,
            fault="import_fault",
            may_work=is_right,
            rest_seconds=IMPORT_REST_SECONDS,
        )
        import_work.stop_when(self._imports.is_stopping)
        self._housekeeper = Loop(
            "housekeeping",
            self._keep_house,
            every_seconds=HOUSEKEEPING_SECONDS,
            fault="housekeeping_fault",
            may_work=is_right,
        )
        # Waits longer after a fault: what is missing or was changed stays so, and an alert says it.
        self._sealer = Loop(
            "sealer",
            seal,
            every_seconds=SEAL_SECONDS,
            fault="sealer_fault",
            may_work=is_right,
            rest_seconds=HOUSEKEEPING_SECONDS,
        )
        self._began_at: datetime | None = None
        self._lookout = Loop("alerts", self.look_out, every_seconds=EVERY_SECONDS, fault="alert_fault")
        self._loops = (self._watch, self._sweeper, self._imports, self._housekeeper, self._sealer, *others)

    def start(self) -> None:
        """Start every thread; return at once."""
        for lane in self.lanes:
            lane.start()
        for loop in self._loops:
            loop.start()
        self._watch.wake()

    def watch(self) -> None:
        """Start the one thread of a process that only serves: it reports dispatchers that are no longer at work."""
        self._lookout.start()

    def look_out(self) -> bool:
        """Report what is wrong if no dispatcher does, and send what reports it. For a process that only serves."""
        now = self._alerts.clock()
        self._began_at = self._began_at or now
        if (now - self._began_at).total_seconds() >= SILENT_SECONDS and self._clock.is_right():
            self._alerts.evaluate(is_dispatching=False)
        self.send_alerts()
        return False

    def send_alerts(self) -> None:
        """Send what reports an alert and no dispatcher has sent."""
        lane = self.lanes[1]
        for claimed in lane.outbox.claim_alerts():
            lane.deliver(claimed)

    def wake_imports(self) -> None:
        """Look for imports: this process has asked for one."""
        self._imports.wake()

    def dispatch_due(self) -> None:
        """End what is due and deliver what is waiting, in this thread: for a test drive, which starts none."""
        self._endings.expire_due()
        for lane in self.lanes:
            for claimed in lane.outbox.claim(lane.kind, MOST_DUE):
                lane.deliver(claimed)

    def stop(self, seconds: float = 10.0) -> None:
        """Ask every thread to stop, then wait for what is under way, up to ``seconds`` for all of them."""
        for loop in (*(lane.loop for lane in self.lanes), *self._loops, self._lookout):
            loop.ask_to_stop()
        give_up_at = time.monotonic() + seconds
        threads: tuple[Lane | Loop, ...] = (*self.lanes, *self._loops, self._lookout)
        for thread in threads:
            thread.stop(max(0.0, give_up_at - time.monotonic()))

    def _watch_clock(self) -> bool:
        """Report this machine's clock while it is wrong; only the machine itself can tell."""
        if fault := self._clock.fault():
            self._alerts.note_clock(gethostname(), fault)
            self.send_alerts()  # where this is the only machine, no other one does
        return False

    def _sweep(self) -> bool:
        try:
            has_more = bool(self._endings.expire_due())
        except Exception:
            self._alerts.evaluate()  # what keeps chats from ending keeps no alert
            raise
        if has_more:
            time.sleep(0)  # other writers first
        else:
            self._alerts.evaluate()
        return has_more

    def _work_on_imports(self) -> bool:
        try:
            if self._import_work.work_once():
                return True
            if time.monotonic() >= self._tidy_imports_at and not self._imports.is_stopping():
                self._tidy_imports_at = time.monotonic() + IMPORT_TIDY_SECONDS
                self._import_work.tidy()
        except LostLease:
            log_event("import_taken_over")
        except WorkerStop:
            pass  # the loop is stopping, which is what stopped the work
        return False

    def _keep_house(self) -> bool:
        self._housekeeping.complete(self._housekeeper.is_stopping)
        self._housekeeping.tidy(self._housekeeper.is_stopping)
        return False
