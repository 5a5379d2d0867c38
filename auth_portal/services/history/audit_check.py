"""Check the audit trail (E4): that each event is as it was recorded, and that none was deleted, added or moved.

Blocks are checked from the oldest to the newest, in pieces, while the portal seals and retention cuts. What is not
sealed yet is checked by its own HMAC alone: that one of these events was deleted does not show.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, func, select, text

from auth_portal.i18n import plain as _
from auth_portal.services.audit_chain import block_text, broken_chain, digest_of, find_chain, sealing_fault
from auth_portal.store.db import EVENT_FIELDS, Transactions, Work, canonical_event, moment_of
from auth_portal.store.models import UNSEALED, AuditBlock, AuditEvent, table_of

CHECKED_AT_ONCE = 5000  # events checked in one request: some 0.3 s
CHUNK = 500  # rows loaded by one statement
FIRST = -1  # where a check begins: before the first block

_EVENTS, _BLOCKS = table_of(AuditEvent), table_of(AuditBlock)
_EVENT = tuple(_EVENTS.c[name] for name in (*EVENT_FIELDS, "mac", "block"))
_IS_UNSEALED = text(UNSEALED)


class AuditFault(NamedTuple):
    """What is wrong, as a sentence. ``block`` is the number of the block in which it was found, if it is in one."""

    words: str
    block: int | None = None


@dataclass
class AuditCheck:
    """What one piece of a check found. ``next`` is where to go on; None at the end."""

    count: int = 0
    blocks: int = 0
    faults: list[AuditFault] = field(default_factory=list)
    next: int | None = None
    unsealed: int = 0
    unsealed_since: datetime | None = None

    def add(self, words: str, block: int | None = None) -> None:
        """Note a fault."""
        self.faults.append(AuditFault(words, block))


class Head(NamedTuple):
    """The head of a block, as it is exported."""

    number: int
    head: str

    def __str__(self) -> str:
        return f"{self.number} {self.head}"


class AuditChecks:
    """Check the blocks and their events; export and compare heads."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def check_all(self) -> Iterator[AuditCheck]:
        """Check everything, in pieces."""
        after: int | None = FIRST
        is_broken = False
        while after is not None:
            checked = self.check(after=after, is_broken=is_broken)
            is_broken = is_broken or bool(checked.faults)
            yield checked
            after = checked.next

    def check(self, *, after: int | None = None, most: int = CHECKED_AT_ONCE, is_broken: bool = False) -> AuditCheck:
        """Check the blocks after this number, until ``most`` events were checked; at the end what is in no block.

        ``is_broken`` says that an earlier piece had faults: then events that were added are looked for one by one.
        """
        found = AuditCheck()
        after = FIRST if after is None else after
        with self._transactions.read() as work:
            chain = find_chain(work)
            if fault := broken_chain(work, chain):
                words = _(
                    "The chain is broken: %(fault)s. Run auth-portal audit restart once you know why.", fault=fault
                )
                found.add(words)
                return found
            self._check_blocks(work, found, chain, after, most)
            if found.next is None:
                last = chain.cut_number if chain.newest is None else max(chain.newest, chain.cut_number)
                if last < chain.last_number:
                    found.add(_missing_blocks(last + 1, chain.last_number), chain.last_number)
                elif last > chain.last_number:
                    found.add(_("Blocks were added after block %(block)s.", block=chain.last_number), last)
                self._check_outside(work, found, chain, is_broken or bool(found.faults))
                if fault := sealing_fault(work):
                    found.add(fault)
            now = find_chain(work)
        cut = now.cut_number if now is not None else 0  # what retention removed meanwhile is not missing
        found.faults = [fault for fault in found.faults if not fault.block or fault.block > cut]
        return found

    def _check_blocks(self, work: Work, found: AuditCheck, chain: Any, after: int, most: int) -> None:
        expected = _following(after, chain)
        before = select(_BLOCKS.c.head).where(_BLOCKS.c.number == expected - 1)
        # Retention may have removed it since the chain was read; a block that someone else deleted is named by itself.
        previous: str | None = work.execute(before).scalar() if expected else ""
        later = select(*_BLOCKS.c).where(_BLOCKS.c.number > after, _BLOCKS.c.number <= chain.last_number)
        blocks = work.execute(later.order_by(_BLOCKS.c.number).limit(CHUNK)).all()
        for block in blocks:
            if found.count >= most:
                found.next = block.number - 1
                return
            if block.number < expected:
                found.add(_("Block %(block)s was added.", block=str(block.number)))
                continue
            if block.number > expected:
                found.add(_missing_blocks(expected, block.number - 1), expected and block.number - 1)
                previous = None
            elif chain.cut_number and block.number == chain.cut_number + 1:
                previous = chain.cut_head
            self._check_block(work, found, block, previous)
            expected, previous = _following(block.number, chain), block.head
        if len(blocks) == CHUNK:
            found.next = blocks[-1].number

    def _check_block(self, work: Work, found: AuditCheck, block: Any, previous: str | None) -> None:
        found.blocks += 1
        content, number = dict(block._mapping), block.number
        if previous is not None and not work.keyring.is_audit_mac(block_text(content, previous), block.head):
            found.add(_("Block %(block)s was changed after it was sealed.", block=str(number)), number)
        rows: dict[str, Any] = {}
        for start in range(0, len(block.events), CHUNK):
            chunk = select(*_EVENT).where(_EVENTS.c.id.in_(block.events[start : start + CHUNK]))
            rows |= {row.id: row for row in work.execute(chunk)}
        faults = len(found.faults)
        if not rows and len(block.events) > 1:
            words = _("All %(count)s events of block %(block)s were deleted.", count=len(block.events), block=number)
            found.add(words, number)
            return
        for event_id in block.events:
            if (row := rows.get(event_id)) is None:
                time = f"{moment:%Y-%m-%d %H:%M:%S} UTC" if (moment := moment_of(event_id)) else "?"
                found.add(_("Event %(event)s of %(time)s was deleted.", event=event_id, time=time), number)
                continue
            self._check_event(work, found, row)
            if row.block != number:
                found.add(_("Event %(event)s was moved to another block.", event=event_id), number)
        found.count += len(rows)
        sealed = [(event_id, rows[event_id].mac) for event_id in block.events if event_id in rows]
        if faults == len(found.faults) and digest_of(sealed) != block.digest:
            found.add(_("The events of block %(block)s are not those that it sealed.", block=str(number)), number)

    def _check_event(self, work: Work, found: AuditCheck, row: Any) -> None:
        if not work.keyring.is_audit_mac(canonical_event(row._mapping), row.mac):
            words = _("Event %(event)s was changed after it was recorded, or never recorded.", event=row.id)
            found.add(words, row.block)

    def _check_outside(self, work: Work, found: AuditCheck, chain: Any, is_broken: bool) -> None:
        """Check the events that wait for a block, and look for events that say they are in one but are not."""
        unsealed = select(*_EVENT).where(_IS_UNSEALED).order_by(_EVENTS.c.id).limit(CHECKED_AT_ONCE)
        after = ""
        while rows := work.execute(unsealed.where(_EVENTS.c.id > after)).all():
            for row in rows:
                self._check_event(work, found, row)
                found.unsealed_since = min(found.unsealed_since or row.at, row.at)
            found.count, found.unsealed = found.count + len(rows), found.unsealed + len(rows)
            after = rows[-1].id
        listed = select(func.coalesce(func.sum(func.json_array_length(_BLOCKS.c.events)), 0))
        wanted = work.execute(listed.where(_BLOCKS.c.number.between(chain.cut_number + 1, chain.last_number))).scalar()
        is_later = _EVENTS.c.block > chain.last_number
        there = work.execute(select(func.count()).where(_EVENTS.c.block <= chain.last_number)).scalar_one()
        if is_broken or there != wanted:
            self._name_strangers(work, found, chain, _EVENTS.c.block.is_not(None))
        elif work.execute(select(_EVENTS.c.id).where(is_later).limit(1)).first() is not None:
            self._name_strangers(work, found, chain, is_later)

    def _name_strangers(self, work: Work, found: AuditCheck, chain: Any, where: ColumnElement[bool]) -> None:
        """Note each of these events whose block does not list it."""
        after = ""
        page = select(_EVENTS.c.id, _EVENTS.c.block).where(where).order_by(_EVENTS.c.id).limit(CHUNK)
        while rows := work.execute(page.where(_EVENTS.c.id > after)).all():
            blocks = select(_BLOCKS.c.number, _BLOCKS.c.events).where(_BLOCKS.c.number.in_({row.block for row in rows}))
            listed = {block.number: frozenset(block.events) for block in work.execute(blocks)}
            for row in rows:
                if row.id not in listed.get(row.block, ()):
                    words = _("Event %(event)s was added after its block was sealed.", event=row.id)
                    found.add(words, row.block if row.block > chain.cut_number else None)
            after = rows[-1].id

    def heads(self, *, only_newest: bool = False) -> Iterator[Head]:
        """Yield the head of each block, the oldest first, or the newest one alone."""
        after = FIRST
        with self._transactions.read() as work:
            if only_newest:
                row = work.execute(select(_BLOCKS.c.number, _BLOCKS.c.head).order_by(_BLOCKS.c.number.desc())).first()
                yield from [Head(row.number, row.head)] if row else []
                return
            while rows := work.execute(
                select(_BLOCKS.c.number, _BLOCKS.c.head)
                .where(_BLOCKS.c.number > after)
                .order_by(_BLOCKS.c.number)
                .limit(CHECKED_AT_ONCE)
            ).all():
                yield from (Head(row.number, row.head) for row in rows)
                after = rows[-1].number

    def compare(self, exported: Sequence[Head]) -> tuple[int, list[AuditFault]]:
        """Return how many exported heads could be compared with the blocks, and what does not fit."""
        faults, compared = [], 0
        with self._transactions.read() as work:
            chain = find_chain(work)
            for start in range(0, len(exported), CHUNK):
                some = exported[start : start + CHUNK]
                found = select(_BLOCKS.c.number, _BLOCKS.c.head).where(
                    _BLOCKS.c.number.in_({one.number for one in some})
                )
                there = {row.number: row.head for row in work.execute(found)}
                if chain is not None and chain.cut_number:
                    there[chain.cut_number] = chain.cut_head
                for number, head in some:
                    if chain is not None and 0 < number < chain.cut_number:
                        continue  # retention has removed it
                    compared += 1
                    if number not in there:
                        faults.append(AuditFault(_missing_blocks(number, number), number))
                    elif there[number] != head:
                        words = _("Block %(block)s is not the one whose head was exported.", block=str(number))
                        faults.append(AuditFault(words, number))
        return compared, faults


def read_heads(lines: Iterable[str]) -> list[Head]:
    """Read heads as ``auth-portal audit heads`` prints them, or log lines. Raise ValueError, with the line's number."""
    found = []
    for place, line in enumerate(lines, 1):
        try:
            if line.lstrip().startswith("{"):
                values = json.loads(line)
                if values.get("event") == "audit_sealed":
                    found.append(Head(int(values["block"]), str(values["head"])))
            elif line.strip():
                number, head = line.split()
                found.append(Head(int(number), head))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"line {place} is no head of a block") from None
    return found


def _following(number: int, chain: Any) -> int:
    """Return the number of the block after this one; the first block stays when retention removes those after it."""
    return number + 1 if number < 0 else max(number, chain.cut_number) + 1


def _missing_blocks(first: int, last: int) -> str:
    if first == last:
        return _("Block %(block)s was deleted.", block=str(first))
    return _("Blocks %(first)s to %(last)s were deleted.", first=str(first), last=str(last))
