"""The chain of the audit trail (E4): shows events that were deleted, added or moved, which their own HMACs cannot.

An event commits with what it reports and waits for nothing. Soon after, one process puts all committed events that are
in no block yet into the next block. The head of a block is an HMAC over its content and over the head of the block
before it, so one head stands for everything up to it. Heads are logged: someone who can write the database, and even
someone who has its keys as well, cannot change what was sealed before a head that is stored elsewhere.

``AuditStream`` sends what was sealed to another system, block after block: a number of blocks is all that it has to
remember, whereas events commit in any order.

Ids sort by the time at which their transactions began, but transactions commit in any order. So no rule looks at the
order of events across blocks: one that commits late is sealed late.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self

from sqlalchemy import ColumnElement, and_, delete, func, insert, or_, select, text, update

from auth_portal.gateways.way_out import OutboundError, WayOut
from auth_portal.store.db import EVENT_FIELDS, Transactions, Work, dialect_insert, first_id, moment_of
from auth_portal.store.models import UNSEALED, Admin, AuditBlock, AuditChain, AuditEvent, AuditStreamRow, table_of

CHAIN_ROW = 1
BLOCK_EVENTS = 500  # in one block at most: sealing it takes a few milliseconds
LEASE = timedelta(seconds=5)  # of the process that seals; it renews it with each block
CUT_BLOCKS = 50  # removed in one transaction at most: each costs two look-ups, also if it has one event
WAIT = timedelta(seconds=60)  # of an event for its block; usually it is 1 or 2 s
LONG_WAIT = timedelta(hours=1)  # while blocks are sealed: a million events take some minutes
UPGRADE = timedelta(days=1)  # within which the last process that removes single events, before blocks, was stopped

_EVENTS, _BLOCKS, _CHAIN = table_of(AuditEvent), table_of(AuditBlock), table_of(AuditChain)
_IS_UNSEALED = text(UNSEALED)
_UNSEALED = select(_EVENTS.c.id, _EVENTS.c.mac).where(_IS_UNSEALED).order_by(_EVENTS.c.id).limit(BLOCK_EVENTS)
_OLDEST = select(_EVENTS.c.id).where(_IS_UNSEALED).order_by(_EVENTS.c.id).limit(1)
_NEVER = datetime.min.replace(tzinfo=UTC)
STREAM_BLOCKS = 5  # sent over one connection, 20 MB at most; one after a failure, for a receiver that is slow
BREATH_EVENTS = 50  # of a backlog, about 2 ms, after which requests of the same process go on
BREATH_SECONDS = 0.0005
STREAM_SECONDS = 20.0  # of one connection
STREAM_LEASE = timedelta(seconds=60)  # of the process that sends
STREAM_RESTS = (2, 5, 10, 30, 60, 120, 300)  # seconds after so many failures in a row
STREAM_LATE = timedelta(minutes=5)  # that a block waits: from here on the receiver counts as away
STREAM_HEARD = timedelta(minutes=10)  # without a try no process sends any longer: the setting was removed
MESSAGE_BYTES = 8000  # a receiver should take 8,192 (RFC 5425, 4.3.1), but rsyslog cuts what is longer than 8,096
AUDIT, WARNING, NOTICE, INFO = 13 * 8, 4, 5, 6  # the facility "log audit" (RFC 5424, 6.2.1), and severities
_STREAM = table_of(AuditStreamRow)
_STATE = ("last_number", "last_head", "cut_number", "cut_head")


class Sealer:
    """Seal what was committed. Of any number of processes one does it, elected by a lease; the row's lock is the rule.

    A process that is suspended holds up the others until its lease is over; if that happens within the transaction, the
    database ends it, and another process seals the same events.
    """

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._holder = secrets.token_hex(16)

    def seal(self) -> bool:
        """Seal one block of events if there are any and no other process does; return True if more may wait.

        Raise BrokenChain if the row of the chain is missing or was changed: what follows it could not be trusted.
        """
        with self._transactions.read() as work:
            if work.execute(_OLDEST).first() is None:
                return False
            if (
                find_chain(work) is not None
                and not work.execute(select(_CHAIN.c.id).where(self._is_free(work))).first()
            ):
                return False
        with self._transactions.write() as work:
            taking = (
                update(_CHAIN).where(self._is_free(work)).values(holder=self._holder, leased_until=work.now + LEASE)
            )
            chain = work.execute(taking.returning(*_CHAIN.c)).one_or_none()
            if fault := broken_chain(work, chain or find_chain(work)):
                raise BrokenChain(fault)
            if chain is None:
                return False
            events = work.execute(_UNSEALED).all()
            if events:
                _append(work, chain, [(event.id, event.mac) for event in events])
        return len(events) == BLOCK_EVENTS

    def _is_free(self, work: Work) -> ColumnElement[bool]:
        """Return the condition under which the row of the chain is this process's to take."""
        until = _CHAIN.c.leased_until
        # No clock is so far ahead: a longer lease was written by someone who wants to stop the sealing.
        is_over = or_(until.is_(None), until <= work.now, until > work.now + 2 * LEASE)
        return and_(_CHAIN.c.id == CHAIN_ROW, or_(_CHAIN.c.holder == self._holder, is_over))


class BrokenChain(Exception):
    """The row of the chain is missing, or is not what the portal wrote."""


def find_chain(work: Work) -> Any:
    """Return the row of the chain, and as ``newest`` the number of the newest block at that moment; or None."""
    newest = select(func.max(_BLOCKS.c.number)).scalar_subquery().label("newest")
    return work.execute(select(*_CHAIN.c, newest).where(_CHAIN.c.id == CHAIN_ROW)).one_or_none()


def begin_chain(work: Work) -> bool:
    """Begin the chain with a block that says what was there; return False if there is one, or a part of one."""
    if work.execute(select(_BLOCKS.c.number).limit(1)).first() is not None:
        return False
    chain = {"id": CHAIN_ROW, "last_number": -1, "last_head": "", "cut_number": 0, "cut_head": "", "mac": ""}
    begun = dialect_insert(work.connection.dialect.name, _CHAIN).values(chain).on_conflict_do_nothing()
    if work.execute(begun.returning(*_CHAIN.c)).one_or_none() is None:
        return False
    found = work.execute(select(func.count()).select_from(_EVENTS)).scalar_one()
    note = f"The chain begins here. {found} events were recorded before; they are sealed as they were found."
    _append(work, find_chain(work), [], note)
    return True


def restart_chain(work: Work) -> bool:
    """Give up the chain, and begin one that seals all events as they are now. The old heads fit nothing any longer."""
    work.execute(delete(_CHAIN))
    work.execute(delete(_BLOCKS))
    work.execute(update(_EVENTS).where(_EVENTS.c.block.is_not(None)).values(block=None))
    work.record("audit_chain_restarted")
    return begin_chain(work)


def cut_chain(work: Work, stored: timedelta, most: int) -> int:
    """Remove the oldest blocks whose events were all stored for this long; return how many events that were.

    Whole blocks, CUT_BLOCKS at most, until ``most`` events are removed or the next block has a newer one. The head of
    the last one that is removed stays. The portal signs the cut, so each block is checked before: one that was changed
    is not removed, nor is what follows it, so that it can be examined.
    """
    chain: Any = work.execute(select(*_CHAIN.c).where(_CHAIN.c.id == CHAIN_ROW).with_for_update()).one_or_none()
    if broken_chain(work, chain):
        return 0
    removed: list[str] = []
    number, head = chain.cut_number, _head_of(work, chain, chain.cut_number)
    while len(removed) < most and number < min(chain.last_number, chain.cut_number + CUT_BLOCKS):
        block, _fault = _due_block(work, number + 1, head, stored)
        if block is None:
            break
        removed += block.events
        number, head = block.number, block.head
    for start in range(0, len(removed), BLOCK_EVENTS):
        work.execute(delete(AuditEvent).where(_EVENTS.c.id.in_(removed[start : start + BLOCK_EVENTS])))
    if removed:
        work.execute(delete(AuditBlock).where(_BLOCKS.c.number.between(chain.cut_number + 1, number)))
        _store_state(work, {**_state(chain), "cut_number": number, "cut_head": head})
    return len(removed)


def _due_block(work: Work, number: int, previous: str | None, stored: timedelta) -> tuple[Any, str]:
    """Return a block if retention may remove it now, else None; and why it is not as the portal wrote it, or "".

    Its events are compared with the block only if it is due. A block of events that were found by an upgrade is due by
    the newest of them, long before it is due by the time at which it was sealed.
    """
    block = work.execute(select(*_BLOCKS.c).where(_BLOCKS.c.number == number)).one_or_none()
    if block is None:
        return None, f"block {number} was deleted"
    if not _is_linked(work, block, previous):
        return None, f"block {number}, or the one before it, was changed"
    before = work.now - stored
    if block.at >= before and max(block.events) >= first_id(before):
        return None, ""
    there = select(_EVENTS.c.id, _EVENTS.c.mac).where(_EVENTS.c.id.in_(block.events))
    macs = {row.id: row.mac for row in work.execute(there)}
    missing = [event_id for event_id in block.events if event_id not in macs]
    if any(event_id >= first_id(block.at - stored + UPGRADE) for event_id in missing):
        return None, f"{len(missing)} events of block {number} were deleted"
    if not missing and digest_of([(event_id, macs[event_id]) for event_id in block.events]) != block.digest:
        return None, f"events of block {number} were changed"
    return block, ""


def _head_of(work: Work, chain: Any, number: int) -> str | None:
    """Return the head of a block, also of the newest one that retention has removed; None if it is missing."""
    if 0 < number == chain.cut_number:
        return str(chain.cut_head)
    return "" if number < 0 else work.execute(select(_BLOCKS.c.head).where(_BLOCKS.c.number == number)).scalar()


def _is_linked(work: Work, block: Any, previous: str | None) -> bool:
    """Return True if this is what the portal sealed after the block with this head; its events are another matter."""
    return previous is not None and work.keyring.is_audit_mac(block_text(block._mapping, previous), block.head)


def broken_chain(work: Work, chain: Any) -> str:
    """Return what is wrong with the row of the chain, which may be None; "" if it is as the portal wrote it."""
    if chain is None:
        return "its row in the table audit_chain is missing"
    is_ours = work.keyring.is_audit_mac(_state_text(_state(chain)), chain.mac)
    return "" if is_ours else "its row in the table audit_chain was changed"


def chain_fault(work: Work, stored: timedelta) -> str:
    """Return why events cannot be sealed, or removed once they were stored for this long; "" if they can.

    It is a sentence for admins. Only the row of the chain and the oldest block are examined.
    """
    chain = find_chain(work)
    fault = broken_chain(work, chain)
    if not fault and chain.cut_number < chain.last_number:
        _block, fault = _due_block(work, chain.cut_number + 1, _head_of(work, chain, chain.cut_number), stored)
        now = find_chain(work) if fault else None
        if now is not None and now.cut_number != chain.cut_number:
            fault = ""  # retention has removed it meanwhile
    if fault:
        return f"The chain is broken: {fault}. Run auth-portal audit verify, and find out who can write the database."
    return sealing_fault(work)


def sealing_fault(work: Work) -> str:
    """Return that events wait too long for a block, as a sentence for admins; "" if none does or the chain is broken.

    Sealing is slow but goes on after a large import or an upgrade; and before the first dispatcher starts, nothing is
    sealed. Both may take LONG_WAIT.
    """
    oldest = work.execute(_OLDEST).scalar()
    since = _NEVER if oldest is None else moment_of(oldest) or _NEVER  # an id that is none was written by someone else
    if oldest is None or work.now - since <= WAIT or broken_chain(work, chain := find_chain(work)):
        return ""
    waited = work.now - max(since, _sealed_at(work, chain, 0))
    is_at_work = not chain.last_number or work.now - _sealed_at(work, chain, chain.last_number) <= WAIT
    if waited <= (LONG_WAIT if is_at_work else WAIT):
        return ""
    return (
        f"Audit events have waited {waited.total_seconds():.0f} s to be sealed, and one that is deleted meanwhile does "
        "not show. Make sure that a dispatcher runs. If one does, someone who can write the database stops it: compare "
        "holder and leased_until in the table audit_chain, which change every few seconds, with what runs."
    )


def _sealed_at(work: Work, chain: Any, number: int) -> datetime:
    """Return when a block was sealed; _NEVER if it is not what the portal wrote."""
    block = work.execute(select(*_BLOCKS.c).where(_BLOCKS.c.number == number)).one_or_none()
    if block is None or not _is_linked(work, block, _head_of(work, chain, number - 1)):
        return _NEVER
    sealed_at: datetime = block.at
    return sealed_at


def digest_of(events: Sequence[tuple[str, str]]) -> str:
    """Return the SHA-256 over the ids and HMACs of a block's events."""
    return hashlib.sha256(json.dumps([list(event) for event in events]).encode()).hexdigest()


def block_text(block: Mapping[str, Any], previous: str) -> str:
    """Return the one text of a block that its head is made of; ``previous`` is the head before it."""
    parts = {name: block[name] for name in ("number", "events", "digest", "note")}
    at = block["at"].astimezone(UTC).isoformat(timespec="microseconds")
    return json.dumps({**parts, "at": at, "previous": previous, "is": "block"}, sort_keys=True)


def _append(work: Work, chain: Any, events: Sequence[tuple[str, str]], note: str = "") -> None:
    """Write the next block, with the events that it seals."""
    ids, number = [event_id for event_id, _mac in events], chain.last_number + 1
    block: dict[str, Any] = {
        "number": number,
        "at": work.now,
        "events": ids,
        "digest": digest_of(events),
        "note": note,
    }
    head = work.keyring.audit_mac(block_text(block, chain.last_head))
    work.execute(insert(AuditBlock), {**block, "head": head})
    if events:
        sealed = update(AuditEvent).where(_EVENTS.c.id.in_(ids), _IS_UNSEALED).values(block=number)
        if work.execute(sealed).rowcount != len(ids):
            raise RuntimeError("an event changed while it was sealed")  # undone, and sealed again as it is then
    _store_state(work, {**_state(chain), "last_number": number, "last_head": head})
    work.log("audit_sealed", level=logging.INFO, block=number, events=len(ids), head=head)


def _state(chain: Any) -> dict[str, Any]:
    return {name: getattr(chain, name) for name in _STATE}


def _state_text(state: Mapping[str, Any]) -> str:
    return json.dumps({**state, "is": "chain"}, sort_keys=True)


def _store_state(work: Work, state: Mapping[str, Any]) -> None:
    mac = work.keyring.audit_mac(_state_text(state))
    work.execute(update(AuditChain).where(_CHAIN.c.id == CHAIN_ROW).values(**state, mac=mac))


# --- The stream to another system: syslog (RFC 5424) over TLS (RFC 5425)


class AuditStream:
    """Send sealed blocks to a receiver of syslog, in order, each at least once.

    Syslog has no answer. So a connection carries some blocks and is then closed for writing: they count as received
    when the receiver, which closes after it has read everything, closes its side without a reset. Any number of
    processes may send; one at a time does, by a lease. What it has to remember is one row: the number of the last block
    that was received.
    """

    def __init__(self, transactions: Transactions, way_out: WayOut, target: str, portal: str) -> None:
        """``target`` is ``host:port``, or "" for no stream; ``portal`` is the host that messages name."""
        self._transactions = transactions
        self._way_out = way_out
        self.target = target
        self._portal = re.sub(r"[^\x21-\x7e]", "_", portal)[:255] or "-"
        self._holder = secrets.token_hex(16)

    def send(self) -> bool:
        """Send the next blocks if some wait and it is this process's turn; return True if more may wait."""
        with self._transactions.read() as work:
            row = work.execute(select(*_STREAM.c)).one_or_none()
            newest = work.execute(select(func.max(_BLOCKS.c.number))).scalar()
            is_free = row is None or self._is_free(row, work.now)
        if newest is None or not is_free or (row is not None and row.block == newest):
            return False
        if (taken := self._take(newest)) is None:
            return False
        with self._transactions.read() as work:
            # A chain that was restarted counts from 0 again: all of it is sent as it was sealed now.
            after = taken.block if taken.block <= newest else -1
            later = select(*_BLOCKS.c).where(_BLOCKS.c.number > after).order_by(_BLOCKS.c.number)
            blocks = work.execute(later.limit(1 if taken.failures else STREAM_BLOCKS)).all()
            lines = [line for block in blocks for line in self._lines(work, block)]
        if not blocks:
            self._note(block=newest)
            return False
        try:
            self._deliver(lines)
        except (OutboundError, OSError) as fault:
            rest = STREAM_RESTS[min(taken.failures, len(STREAM_RESTS) - 1)]
            self._note(failures=taken.failures + 1, fault=_reason(fault), rest=rest)
            return False
        self._note(block=blocks[-1].number, events=len(lines) - len(blocks))
        return True

    def check(self) -> tuple[bool, str]:
        """Connect and send nothing; return whether all is well, and how much waits or what is wrong."""
        try:
            self._deliver([])
        except (OutboundError, OSError) as fault:
            return False, f"{self.target}: {_reason(fault)}"
        with self._transactions.read() as work:
            row, late = work.execute(select(*_STREAM.c)).one_or_none(), stream_fault(work)
            if row is None:
                return True, f"{self.target} can be reached; nothing was sent yet"
            waiting = StreamLag.of(work, row).blocks
            state = f"{self.target} can be reached; received up to block {row.block}, {waiting} wait"
        return not (late and late[1]), f"{state}. {late[1]}" if late and late[1] else state

    def figures(self, work: Work) -> dict[str, float]:
        """Return how far the receiver is behind, by the names of its metrics; nothing before the first try."""
        row = work.execute(select(*_STREAM.c)).one_or_none()
        if row is None or not (self.target or work.now - row.tried_at <= STREAM_HEARD):
            return {}
        lag = StreamLag.of(work, row)
        found = {"blocks": lag.blocks, "seconds": lag.waited.total_seconds(), "failures": row.failures}
        received = {"received_timestamp_seconds": lag.received_at.timestamp()} if lag.received_at else {}
        return {**found, **received}

    @staticmethod
    def _is_free(row: Any, now: datetime) -> bool:
        until = row.leased_until
        return bool(row.next_at <= now and (until is None or until <= now or until > now + 2 * STREAM_LEASE))

    def _take(self, newest: int) -> Any:
        """Take the lease, and return the row; None if another process has it. A stream begins with the next block."""
        with self._transactions.write() as work:
            first = {"id": CHAIN_ROW, "target": self.target, "block": newest - 1, "failures": 0, "fault": ""}
            first |= {"holder": "", "tried_at": work.now, "next_at": work.now, "leased_until": None}
            begun = dialect_insert(work.connection.dialect.name, _STREAM).values(first)
            work.execute(begun.on_conflict_do_nothing())
            row = work.execute(select(*_STREAM.c).with_for_update()).one()
            if not self._is_free(row, work.now):
                return None
            lease = {"holder": self._holder, "leased_until": work.now + STREAM_LEASE, "target": self.target}
            work.execute(update(_STREAM).values(lease))
            return row

    def _note(
        self, *, block: int | None = None, events: int = 0, failures: int = 0, fault: str = "", rest: float = 0
    ) -> None:
        """Store what became of a try, and give the lease back; the next try is after ``rest`` seconds."""
        with self._transactions.write() as work:
            values = {
                "failures": failures,
                "fault": fault,
                "tried_at": work.now,
                "next_at": work.now + timedelta(seconds=rest),
            }
            values |= {"leased_until": None, **({} if block is None else {"block": block})}
            work.execute(update(_STREAM).where(_STREAM.c.holder == self._holder).values(values))
            if fault:
                work.log("audit_stream_failed", level=logging.WARNING, target=self.target, why=fault, failures=failures)
            elif events:
                work.log("audit_streamed", block=block, events=events)

    def _deliver(self, lines: Sequence[bytes]) -> None:
        """Send messages over a connection of their own. Raise OutboundError or OSError unless all were received."""
        host, _colon, port = self.target.rpartition(":")
        host, deadline = host.strip("[]"), time.monotonic() + STREAM_SECONDS
        plain = self._way_out.connect(host, int(port), connect_seconds=STREAM_SECONDS / 2, deadline=deadline)
        with plain, self._way_out.tls.wrap_socket(plain, server_hostname=host) as line:
            for first in range(0, len(lines), BREATH_EVENTS):
                line.sendall(b"".join(b"%d %b" % (len(one), one) for one in lines[first : first + BREATH_EVENTS]))
            finish(line, deadline)

    def _lines(self, work: Work, block: Any) -> Iterator[bytes]:
        """Yield the messages of a block: its events in their order, then its head."""
        columns = (*(_EVENTS.c[name] for name in EVENT_FIELDS), Admin.name.label("admin"))
        found = select(*columns).outerjoin(Admin, Admin.id == _EVENTS.c.admin_id)
        rows = {row.id: row for row in work.execute(found.where(_EVENTS.c.id.in_(block.events)))}
        for place, event_id in enumerate(block.events, 1):
            if place % BREATH_EVENTS == 0:
                time.sleep(BREATH_SECONDS)
            if (row := rows.get(event_id)) is not None:  # one that someone deleted leaves a gap in the numbers
                content = {**row._mapping, "number": f"{block.number}.{place}"}
                yield self._line(row.at, row.kind, content)
        head = {"event": "audit_sealed", "block": block.number, "events": len(block.events), "head": block.head}
        yield self._line(block.at, "audit_sealed", {**head, "at": block.at})

    def _line(self, at: datetime, kind: str, content: Mapping[str, Any]) -> bytes:
        """Return one message of at most MESSAGE_BYTES: of longer facts only their names."""
        stamp = at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        name = re.sub(r"[^\x21-\x7e]", "_", kind)[:32] or "-"
        level = WARNING if kind.endswith(("_failed", "_refused", "_broken", "_declined")) else NOTICE
        head = f"<{AUDIT + (level if content.get('admin_id') or level is WARNING else INFO)}>1 {stamp} {self._portal}"
        said = {**content, "at": stamp}
        line = f"{head} auth-portal - {name} - {json.dumps(said, sort_keys=True)}".encode()
        if len(line) <= MESSAGE_BYTES:
            return line
        said["facts"] = {"shortened": sorted(content.get("facts", ()))}
        return f"{head} auth-portal - {name} - {json.dumps(said, sort_keys=True)}".encode()[:MESSAGE_BYTES]


def finish(line: ssl.SSLSocket, deadline: float) -> None:
    """Close a connection for writing, and wait until the receiver has read everything and closes. Raise OSError."""
    line.settimeout(0)
    try:
        is_early = line.read(1) == b""
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        is_early = False
    if is_early:
        raise ConnectionAbortedError("the receiver closed the connection early")
    line.settimeout(max(0.01, deadline - time.monotonic()))
    try:
        rest = line.unwrap()  # returns once the receiver says that it will send nothing more
    except ssl.SSLEOFError:
        return  # it closed without a word of TLS
    rest.shutdown(socket.SHUT_WR)
    rest.settimeout(max(0.01, deadline - time.monotonic()))
    while rest.recv(1024):  # a receiver that closed without having read everything causes a reset here
        pass


def _reason(fault: Exception) -> str:
    """Return why a try failed, without an address."""
    if isinstance(fault, OutboundError):
        return fault.reason
    return f"the connection broke: {getattr(fault, 'strerror', None) or fault or type(fault).__name__}"[:200]


class StreamLag(NamedTuple):
    """How far a receiver of the stream is behind."""

    blocks: int  # that it has not received
    waited: timedelta  # the oldest of them, since it was sealed
    received_at: datetime | None  # when the newest block that it has was sealed; None if retention has removed that

    @classmethod
    def of(cls, work: Work, row: Any) -> Self:
        """Return how far the receiver of this row is behind; it costs a few steps in an index."""
        newest = work.execute(select(func.max(_BLOCKS.c.number))).scalar() or 0
        after = row.block if row.block <= newest else -1  # the chain was restarted
        at = {
            number: work.execute(select(_BLOCKS.c.at).where(_BLOCKS.c.number == number)).scalar()
            for number in (row.block, after + 1)
        }
        waited = work.now - (at[after + 1] or work.now)
        return cls(newest - after, max(waited, timedelta()), at[row.block])


def stream_fault(work: Work) -> tuple[str, str] | None:
    """Return the receiver of the stream, and why it lags as a sentence for admins, "" if it does not.

    None without a stream: no process has sent lately.
    """
    row = work.execute(select(*_STREAM.c)).one_or_none()
    if row is None or work.now - row.tried_at > STREAM_HEARD:
        return None
    waited = StreamLag.of(work, row).waited
    if waited <= STREAM_LATE:
        return row.target, ""
    why = f": {row.fault}" if row.fault else ": it takes them too slowly"
    return row.target, (
        f"Audit events have waited {int(waited.total_seconds() // 60)} min to be sent to {row.target}{why}. None is "
        "lost: they are sent in their order once it takes them again."
    )
