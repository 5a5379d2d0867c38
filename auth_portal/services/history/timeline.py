"""The story of a verification: from what is on record to sentences that can be read to the person who calls.

``in_short`` is what the caller is read, ``story_moments`` says what happened, each moment with a short clause for the
one-sentence ``headline``, ``what_helps`` what to do, and ``clock_marks`` when it was. ``raw_timeline`` lists every
record as it stands. None of them shows a code, a whole reference or a whole contact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby

from auth_portal.i18n import plain as _
from auth_portal.methods import CARRIES, method_name, words_of
from auth_portal.services.delivery.outbox import LOST, TIME_WAS_OVER
from auth_portal.services.history import words
from auth_portal.services.history.record import CodeFacts, DeliveryFacts, DeliveryFix, EventFacts, Record, VisitFacts
from auth_portal.services.history.words import counted, span
from auth_portal.services.verification.case import CHANGED_LATELY, MOST_EVENTS
from auth_portal.store.models import CHANGED, VERIFIED, DeliveryState

OTHER_COUNTRY = "the channel does not send to "
NOT_SENT = {  # the reasons that the outbox notes, in the story's words
    "destination limit reached": "this contact had got as many messages as one may in an hour or a day",
    "the channel's daily cap is reached": "the channel had reached its daily cap",
    "too many wrong tries with this method": "the customer's tries with this method are used up",
    CHANGED_LATELY: "the contact was changed lately, so it may not be the only proof in this journey",
    "the code is no longer valid": "the code had been used or replaced before the message could leave",
    "the verification has ended": "the verification had ended before the message could leave",
    "the contact on file has changed since": "the contact on file changed after the code was issued",
    TIME_WAS_OVER: "the code had expired before the message could leave",
}
REASONS_BEFORE = {  # as the outbox noted them before, by how it notes them now
    "nobody to send to": "no contact to send to",
    "the code is no longer in force": "the code is no longer valid",
}
CODE_OF_A_MOVE = {
    "in_force": "The code sent before was still valid, so no other one was sent.",
    "none_left": "No code was sent: this chat had used up all its messages, and the page said so.",
}
OUTCOME_NAMES = tuple(name for name in words.OUTCOMES if name != CHANGED)  # to filter by: what is stored, and LIVE
LEFT = (DeliveryState.ACCEPTED, DeliveryState.PENDING, DeliveryState.UNCONFIRMED)  # or may leave, or may have left
SPOKEN_STATES: Mapping[str, str] = {  # of a code, for the customer
    DeliveryState.ACCEPTED: "Our %(name)s provider accepted %(which)s.",
    DeliveryState.REFUSED: "Our %(name)s provider refused %(which)s.",
    DeliveryState.GIVEN_UP: "Our %(name)s provider had a fault until the time for %(which)s was over.",
    DeliveryState.PENDING: "Our %(name)s provider hasn't accepted %(which)s yet.",
    DeliveryState.UNCONFIRMED: "We don't know whether our %(name)s provider accepted %(which)s.",
    DeliveryState.DROPPED: "",
}
SPOKEN_CHAT: Mapping[str, str] = {  # of the answer, for the customer
    DeliveryState.PENDING: "The chat hasn't got the answer yet.",
    DeliveryState.UNCONFIRMED: "We don't know whether the answer reached the chat.",
    DeliveryState.SUPERSEDED: "The link was opened again, so the chat waits for the newer answer.",
}
MOVES = ("method_chosen", "code_resent", "name_taken_back", "verification_joined")


@dataclass(frozen=True)
class Moment:
    """Something that happened. ``clause`` is its part of the headline, empty where it has none.

    ``help`` is the key of what helps against it (HELP), ``delivery`` the one that it is about, and ``seconds`` how long
    it took.
    """

    at: datetime
    text: str
    clause: str = ""
    kind: str = "plain"  # good | bad | warn | plain
    help: str = ""
    sign: str = ""  # began | person | asked | ended, where the kind alone does not say what it is
    delivery: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class CallerHelp:
    """What helps the person who calls, in words: ``now``, ``then``, and ``for_all`` customers; "" for nothing.

    ``act`` and ``act_for_all`` are the pages where that is done, as those of HELP, or ``code`` for a temporary code;
    ``channel`` is the one that they mean.
    """

    now: str
    then: str
    for_all: str
    act: str
    act_for_all: str
    channel: str


@dataclass(frozen=True)
class ClockMark:
    """A moment on the clock of a chat. ``place`` is its percentage of the time from the beginning to the end."""

    at: datetime
    place: float
    name: str  # began | sent | not_sent | ended | now | last | closes


def headline(moments: tuple[Moment, ...]) -> str:
    """Return the whole story in one sentence."""
    text = ", ".join(moment.clause for moment in moments if moment.clause)
    return f"{text[:1].upper()}{text[1:]}."


def story_moments(record: Record) -> list[Moment]:
    """Return what happened, in order."""
    chapters = (beginning, identifications, moves, messages, proofs, end, callback, retries)
    moments = [moment for chapter in chapters for moment in chapter(record)]
    return sorted(moments, key=lambda moment: moment.at)  # stable: what happened at one time stays in this order


# --- The chapters of a story


def beginning(record: Record) -> Iterator[Moment]:
    """Yield when and where it began; first of all, that it was changed since."""
    row = record.row
    if record.is_changed:
        changed = words.OUTCOMES[CHANGED]
        yield Moment(row.began_at, _(changed.story), _(changed.clause), "bad", CHANGED)
    text = _("Began on the journey “%(name)s”.", name=record.journey.name)
    if row.dropped_parameters:
        text += " " + _("An app had added %(names)s to the link; it was left out.", names=row.dropped_parameters)
    yield Moment(row.began_at, text, _("began %(at)s", at=record.time(row.began_at)), sign="began")


def identifications(record: Record) -> Iterator[Moment]:
    """Yield who was identified, first in each browser and then after a change.

    The audit's events say it. A verification from before they were recorded is described by what its visits still know,
    which is what was typed last. One that was changed names no one.
    """
    if record.is_changed:
        return
    joined = {str(event.facts["visit"]): event for event in record.events if event.kind == "verification_joined"}
    first = next((event for event in record.events if event.kind == "verification_began"), None)
    changes = [event for event in record.events if event.kind == "named_again"]
    last_change = {str(event.facts["visit"]): event for event in changes}
    for number, visit in enumerate(record.visits):
        began = joined.get(visit.id) if number else first
        seen = _as_of(visit, began, is_last=visit.id not in last_change)
        if not seen.typed and seen.customer_row is None and visit.id not in last_change:
            continue
        text, clause = _who(record, seen)
        if number:
            text = _("The link was opened again. %(text)s", text=text) + _about_code(began)
            clause = clause or (_no_code_left(began) if began is not None else "")
        yield Moment(visit.at, text, clause, "plain" if seen.customer_row else "warn", sign="person")
    visits = {visit.id: visit for visit in record.visits}
    for event in changes:
        changed = visits.get(str(event.facts["visit"]))
        if changed is not None:
            seen = _as_of(changed, event, is_last=event is last_change[changed.id])
            text, clause = _who(record, seen)
            how = _("Another name was given.") if event.facts["is_other"] else _("The same name was given again.")
            text = f"{how} {text}{_about_code(event)}"
            kind = "plain" if seen.customer_row else "warn"
            yield Moment(event.at, text, clause or _no_code_left(event), kind, sign="person")
    if (count := record.row.identity_changes) and not any("is_other" in event.facts for event in record.events):
        times = counted(count, "time", "times")
        text = _("The name was changed afterwards: %(count)s. The last one is shown.", count=times)
        yield Moment(record.visits[-1].at if record.visits else record.row.began_at, text)


def _as_of(visit: VisitFacts, event: EventFacts | None, *, is_last: bool) -> VisitFacts:
    """Return a visit as it was when an event identified it: only what was typed last is stored."""
    is_erased = event is not None and visit.customer_row is None and event.customer_row is not None
    if event is None or (is_last and not is_erased):
        return visit
    return replace(visit, typed="", customer_row=event.customer_row, is_shared=False)


def _who(record: Record, visit: VisitFacts) -> tuple[str, str]:
    person, typed = record.people.get(visit.customer_row or ""), visit.typed or "•••"
    if person is not None:
        text = _("Typed %(typed)s: customer %(who)s.", typed=typed, who=person.customer_id)
        if not visit.typed and record.row.ticket_id is not None:
            text = _("The ticket names customer %(who)s.", who=person.customer_id)
        return (text, "") if person.is_active else (f"{text} {_('This customer is disabled.')}", _("customer disabled"))
    if visit.customer_row is not None:
        return _("That was a customer who has been erased since."), ""
    if record.row.ticket_id is not None and not visit.typed:
        text = _("The ticket names a customer ID that no active customer has. The page does not show that.")
        return text, _("the ticket names no active customer")
    if record.row.ticket_id is not None:
        text = _("Typed %(typed)s: not the customer of the ticket. The page does not show that.", typed=typed)
        return text, _("not the customer of the ticket")
    if visit.is_shared:
        text = _("Typed %(typed)s, which several customers share, so it identifies none of them.", typed=typed)
        return text, _("typed a contact that several customers share")
    text = _("Typed %(typed)s: no customer matches. The page does not show that.", typed=typed)
    return text, _("typed what matches no customer")


def moves(record: Record) -> Iterator[Moment]:
    """Yield what was tapped in addition to identifying and proving."""
    for event in record.events:
        if event.kind in MOVES and not event.facts.get("is_new_visit"):
            text, clause = _move(event, record)
            sign = "person" if event.kind == "name_taken_back" else "asked"
            yield Moment(event.at, text + _about_code(event), clause or _no_code_left(event), sign=sign)
    if len(record.events) >= MOST_EVENTS:
        yield Moment(record.events[-1].at, _("Not every move was recorded: there were too many."))


def _move(event: EventFacts, record: Record) -> tuple[str, str]:
    if event.kind == "method_chosen":
        return _("Chose: %(method)s.", method=method_name(str(event.facts["method"]))), ""
    if event.kind == "code_resent" and event.facts["is_new"]:
        return _("Asked for another code: a new one was created, and the one before stopped working."), ""
    if event.kind == "code_resent":
        return _("Asked for the code again: the same code was sent once more."), ""
    if event.kind == "verification_joined":
        return _("The same browser sent its first form again, as a double tap does; it went on where it was."), ""
    changes = (one for one in record.events if one.kind == "named_again" and one.at >= event.at)
    if any(one.facts["visit"] == event.facts["visit"] for one in changes):
        return _("Went back to change who they are."), ""
    return _("Went back to change who they are, and gave no name after that."), _("went back and gave no name")


def _about_code(event: EventFacts | None) -> str:
    """Return what came of the code that a move asks for, where it is not what one would expect."""
    found = CODE_OF_A_MOVE.get(str(event.facts.get("code", "")), "") if event is not None else ""
    return f" {_(found)}" if found else ""


def _no_code_left(event: EventFacts) -> str:
    """Return the clause of a move after which no code came, because there were none left."""
    return _("no code sent: all messages used up") if event.facts.get("code") == "none_left" else ""


def messages(record: Record) -> Iterator[Moment]:
    """Yield what was sent to the customer."""
    codes = {code.id: code for code in record.codes}
    seen: set[str] = set()
    for message in record.messages:
        challenge_id = message.line.challenge_id or ""
        yield _message(record, message, codes.get(challenge_id), is_again=challenge_id in seen)
        seen.add(challenge_id)


def _message(record: Record, message: DeliveryFacts, code: CodeFacts | None, *, is_again: bool) -> Moment:
    line, channel = message.line, record.channels.get(message.line.target)
    if code is not None:
        what = "SMS" if CARRIES.get(code.method) == "sms" else _("email")
    else:
        what = "SMS" if channel is not None and channel.message_kinds == {"sms"} else _("message")
    provider = channel.WORDS.provider if channel is not None else ""
    last = message.tries[-1] if message.tries else None
    values = {
        "what": what,
        "channel": provider or _("channel “%(name)s”", name=line.target),
        "tries": counted(line.attempts, "try", "tries"),
        "reason": line.reason.rstrip("."),
    }
    seconds = None if last is None or last.milliseconds is None else last.milliseconds / 1000
    moment = Moment(line.created_at, "", kind="bad", delivery=line.id, seconds=seconds)
    if line.state == DeliveryState.ACCEPTED and last is not None and last.ended_at is not None:
        took = (last.ended_at - line.created_at).total_seconds() or seconds or 0.0
        values["took"] = span(took)
        values["to"] = _(" to %(contact)s", contact=code.contact) if code and code.contact else ""
        values["again"] = _(" once more") if is_again else ""
        text = _("%(what)s handed to %(channel)s%(to)s%(again)s.", **values)
        clause = _("%(what)s handed to %(channel)s%(again)s in %(took)s", **values)
        return replace(moment, text=text, clause=clause, kind="good", seconds=took)
    if line.state == DeliveryState.DROPPED:
        why, reason = _why_not_sent(record, line.reason, code)
        text = _("No %(what)s was sent: %(why)s. The page does not show that.", what=what, why=why)
        clause = _("no %(what)s sent: %(why)s", what=what, why=why)
        return replace(moment, text=text, clause=clause, help=reason, seconds=None)  # nothing took any time
    if line.state == DeliveryState.PENDING:
        values["reason"] = f" ({line.reason})" if line.reason and last else ""
        text = _("%(what)s not yet handed to %(channel)s after %(tries)s%(reason)s.", **values)
        return replace(moment, text=text, clause=_("%(what)s still waiting for %(channel)s", **values), kind="warn")
    if line.state == DeliveryState.UNCONFIRMED:
        text = _("%(what)s may have been taken by %(channel)s, after %(tries)s: %(reason)s.", **values)
        clause = _("%(what)s perhaps taken by %(channel)s: %(reason)s", **values)
        return replace(moment, text=text, clause=clause, help="not_taken")
    text = _("%(what)s was not accepted by %(channel)s after %(tries)s: %(reason)s.", **values)
    clause = _("%(what)s not accepted by %(channel)s: %(reason)s", **values)
    is_recipient = last is not None and last.fate == "recipient"
    return replace(moment, text=text, clause=clause, help="recipient" if is_recipient else "not_taken")


def _why_not_sent(record: Record, reason: str, code: CodeFacts | None) -> tuple[str, str]:
    """Return why a message did not leave, and the key of the advice for it."""
    reason = REASONS_BEFORE.get(reason, reason)
    if reason == "no contact to send to" and code is not None:
        return _why_no_recipient(record, code)
    if reason == CHANGED_LATELY:
        return _(NOT_SENT[reason]), "changed_lately"
    if reason in NOT_SENT:
        return _(NOT_SENT[reason]), reason
    return reason or _("no reason is on record"), "country" if reason.startswith(OTHER_COUNTRY) else ""


def _why_no_recipient(record: Record, code: CodeFacts) -> tuple[str, str]:
    """Look in the directory as it is now: the message's row only knows that there was no recipient."""
    if code.customer_row is None:
        if record.row.ticket_id is not None:
            return _("what was typed is not the customer of the ticket"), "ticket"
        if any(visit.is_shared for visit in record.visits):
            return _("several customers share what was typed, so it identifies none of them"), "shared"
        return _("no customer matches what was typed"), "nobody"
    person = record.people.get(code.customer_row)
    if person is None:
        return _("the customer has been erased since"), ""
    if not person.is_active:
        return _("customer %(who)s is disabled", who=person.customer_id), "disabled"
    carries = CARRIES.get(code.method, "email")
    values = {"who": person.customer_id, "contact": _("phone number") if carries == "sms" else _("email address")}
    if not person.has_contact(carries):
        return _("customer %(who)s has no %(contact)s on file", **values), "no_contact"
    return _("customer %(who)s had no %(contact)s on file then", **values), ""


def proofs(record: Record) -> Iterator[Moment]:
    """Yield proofs; wrong ones in a row with one method and reason are one moment."""

    def alike(event: EventFacts) -> tuple[str, str, str]:
        return event.kind, str(event.facts.get("method") or ""), str(event.facts.get("why") or "")

    proofs = [event for event in record.events if event.kind in ("proof_failed", "step_passed")]
    for (kind, method, why), some in groupby(proofs, key=alike):
        events = list(some)
        if kind == "proof_failed":
            yield _wrong_tries(record, events, method, why)
            continue
        how = method_name(method)
        for event in events:
            clauses = (_("%(how)s proved", how=how), _no_code_left(event))
            text = _("Proved the %(how)s.", how=how) + _about_code(event)
            yield Moment(event.at, text, ", ".join(filter(None, clauses)), "good")


def _wrong_tries(record: Record, events: list[EventFacts], method: str, why: str) -> Moment:
    what = words_of(method).proof
    count = counted(len(events), f"wrong {what}", f"wrong {what}s")
    until = _(", the last at %(at)s", at=record.time(events[-1].at)) if events[-1].at != events[0].at else ""
    text = f"{count[:1].upper()}{count[1:]} ({method_name(method)}{until})."
    if why in words.WHY_WRONG:
        text += f" {_(words.WHY_WRONG[why])} {_('The page does not show that.')}"
    clause = f"{count} ({_(words.CLAUSE_OF_WRONG[why])})" if why in words.CLAUSE_OF_WRONG else count
    return Moment(events[0].at, text, clause, "bad" if why else "warn", why)


def end(record: Record) -> Iterator[Moment]:
    """Yield how it ended, or how much time and how many tries are left."""
    row = record.row
    if record.is_changed:
        return
    if row.outcome is None:
        left = span((row.proofs_until - record.now).total_seconds())
        tries = counted(max(0, record.journey.limits.wrong_tries - row.wrong_tries), "try", "tries")
        text = _("Still under way: %(left)s left to prove it, %(tries)s left.", left=left, tries=tries)
        if record.is_closed:
            text += " " + _("The journey has been switched off since; a verification that had begun may finish.")
        yield Moment(record.now, text, _("still under way, %(left)s left", left=left), help="live", sign="ended")
        return
    at = record.time(row.ended_at)
    if row.outcome in words.FINISHED:
        yield Moment(
            row.ended_at,
            _(words.FINISHED[row.outcome]),
            f"{_(words.OUTCOMES[row.outcome].clause)} {at}",
            "good",
            VERIFIED,
        )
        return
    if row.outcome == VERIFIED:
        how = _(" and ").join(method_name(method) for method in row.methods.split("+"))
        yield Moment(row.ended_at, _("Verified with %(how)s.", how=how), _("verified %(at)s", at=at), "good", VERIFIED)
        return
    why = record.why_ended
    outcome = words.OUTCOMES.get(row.outcome, words.OutcomeWords(row.outcome, "plain", "", row.outcome, row.outcome))
    text = words.WHY_ENDED.get(why) or outcome.story or _why_unavailable(record)
    clause = _(words.CLAUSE_OF_END.get(why, outcome.clause))
    key = why or row.outcome
    kind = outcome.tone if outcome.tone in ("bad", "warn") else "bad"
    yield Moment(row.ended_at, _(text), f"{clause} {at}", kind, words.HELP_AFTER.get(key, key), sign="ended")


def _why_unavailable(record: Record) -> str:
    """Return the reason as far as a verification without a recorded one shows it."""
    kinds = {event.kind for event in record.events}
    if "step_passed" in kinds:
        return "It could not go on: the customer has nothing on file for the next step, or no channel for it works."
    if "verification_began" in kinds:
        return "It could not go on: the journey was switched off, or no channel of it worked."
    return "It could not begin: the journey was switched off, or no channel of it worked."


def callback(record: Record) -> Iterator[Moment]:
    """Yield what the chat received."""
    if record.callback is None:
        return
    line, tries = record.callback.line, record.callback.tries
    last = tries[-1] if tries else None
    at = (last.ended_at or last.began_at) if last else line.created_at
    result = record.journey.results.get(record.row.outcome, "") if not record.is_changed else "…"
    values = {
        "result": result,
        "tries": counted(len(tries), "try", "tries"),
        "last": record.callback.last_response or _("no response yet"),
    }
    if line.state == DeliveryState.ACCEPTED and last is not None:
        yield replace(_accepted(record, result, at, last.milliseconds), delivery=line.id)
    elif line.state == DeliveryState.PENDING:
        text = _("The chat has not received “%(result)s” yet, after %(tries)s: %(last)s.", **values)
        waits = "chat_waits" if tries and record.row.outcome == VERIFIED else ""
        yield Moment(at, text, _("chat not informed yet (%(last)s)", **values), "warn", waits, delivery=line.id)
    elif line.state == DeliveryState.SUPERSEDED:
        text = _(
            "The result “%(result)s” was withdrawn: the link was opened again before the chat accepted it.", **values
        )
        clause = _("result withdrawn because the link was opened again")
        yield Moment(line.ended_at or at, text, clause, "warn", "newer", delivery=line.id)
    else:
        text, clause = _failed(line.state, values, last.status if last else None)
        yield Moment(at, text, clause, "bad", "chat_unaware", delivery=line.id)


def _accepted(record: Record, result: str, at: datetime, milliseconds: int | None) -> Moment:
    # From the end until the chat accepted it; what the attempt itself took where the clocks show nothing.
    seconds = (at - (record.row.ended_at or at)).total_seconds() or (milliseconds or 0) / 1000
    tries = len(record.callback.tries) if record.callback else 0
    left = (record.row.chat_ends_at - at).total_seconds()
    values = {
        "result": result,
        "took": span(seconds),
        "again": _(", on try %(n)s", n=tries) if tries > 1 else "",
        "rest": _("with %(left)s left", left=span(left)) if left > 0 else _("after the chat's time was over"),
    }
    text = _("The chat received “%(result)s”%(again)s, %(rest)s.", **values)
    return Moment(at, text, _("chat informed in %(took)s %(rest)s", **values), "good", seconds=seconds)


def _failed(state: str, values: dict[str, str], status: int | None) -> tuple[str, str]:
    """Return the text and the clause of a callback that was not accepted."""
    if state == DeliveryState.UNCONFIRMED:
        text = _("The chat may or may not have received “%(result)s”: %(tries)s without a clear response.", **values)
        text += " " + _("The last one: %(last)s.", **values)
        return text, _("unclear whether the chat was informed")
    if state == DeliveryState.REFUSED:
        text = _("Flow refused “%(result)s” after %(tries)s: %(last)s.", **values)
        return text + _(words.WHY_REFUSED.get(status or 0, "")), _("chat refused the result (%(last)s)", **values)
    text = _("The chat never received “%(result)s”: given up after %(tries)s, the last one: %(last)s.", **values)
    return text, _("chat never informed (%(last)s)", **values)


def retries(record: Record) -> Iterator[Moment]:
    """Yield what was sent again on request."""
    for event in record.events:
        if event.kind == "delivery_retried":
            what = _("result") if event.facts.get("what") == "callback" else _("message")
            values = {"what": what, "who": words.who_acted(event.admin, event.came_from) or _("the API")}
            values["reason"] = event.facts.get("reason", "")
            text = _("%(who)s had the %(what)s sent again: %(reason)s", **values)
            yield Moment(event.at, text, sign="asked", delivery=str(event.facts.get("delivery", "")))


# --- What helps


def what_helps(record: Record, moments: Sequence[Moment]) -> CallerHelp:
    """Return what to do for the caller, and for all customers, after what happened.

    What went wrong last matters most; that a message did not leave no longer matters once one of the same kind did.
    """
    lines = {one.line.id: one.line for one in record.messages}
    arrived = {line.target for line in lines.values() if line.state == DeliveryState.ACCEPTED}
    found = [
        (words.HELP[moment.help], lines.get(moment.delivery))
        for moment in moments
        if moment.help in words.HELP and not (moment.delivery in lines and lines[moment.delivery].target in arrived)
    ]
    for_all, of_all = next(((one, line) for one, line in reversed(found) if one.for_all), (None, None))
    found.sort(key=lambda pair: not pair[0].is_rest)
    help_, line = found[-1] if found else (words.HelpWords(), None)
    is_code = help_.takes_code and record.takes_support_code
    if is_code and record.person is not None and record.person.is_active:
        code = next((one for one in record.codes if line is not None and one.id == line.challenge_id), None)
        method = method_name(code.method) if code is not None else _("code")
        help_ = replace(help_, now=_(words.TAKE_CODE, method=method), act="code")
    return CallerHelp(
        now=_(help_.now),
        then=_(help_.then).strip() if help_.then else _what_then(record),
        for_all=_for_all(record, for_all, of_all.target if of_all is not None else ""),
        act=help_.act,
        act_for_all=for_all.act_for_all if for_all is not None else "",
        channel=of_all.target if of_all is not None else "",
    )


def _what_then(record: Record) -> str:
    if record.row.outcome is None:
        return _(words.GO_ON, at=record.time(record.row.proofs_until))
    return _(words.START_AGAIN)


def _for_all(record: Record, found: words.HelpWords | None, channel: str) -> str:
    """Return what ends it for all customers: since when a channel fails, or else what its page is for."""
    if found is None:
        return ""
    if found is words.HELP["not_taken"]:
        since = record.failing.get(channel)
        return _(words.FAILING, channel=channel, at=record.time(since)) if since is not None else ""
    return _(found.for_all)


def who_fixes(delivery: DeliveryFacts, kind: str) -> DeliveryFix | None:
    """Return who can fix what kept a delivery from arriving; None for one that arrived or was withdrawn.

    ``kind`` is that of its subject.
    """
    line = delivery.line
    if line.state in (DeliveryState.ACCEPTED, DeliveryState.SUPERSEDED):
        return None
    last = delivery.tries[-1] if delivery.tries else None
    if line.state == DeliveryState.DROPPED:
        key = REASONS_BEFORE.get(line.reason, line.reason)
        key = "country" if key.startswith(OTHER_COUNTRY) else key if key in words.FIXES else "not_sent"
    elif line.state == DeliveryState.PENDING:
        key = "pending"
    elif kind in ("callback", "webhook"):
        status = last.status if last is not None else None
        key = f"{kind}_{status}" if f"{kind}_{status}" in words.FIXES else f"{kind}_{line.state}"
    else:
        fate = last.fate if last is not None else ""
        key = fate if line.state == DeliveryState.REFUSED and fate in words.FIXES else f"message_{line.state}"
    who, what, tone = words.FIXES.get(key, words.FIXES["not_sent"])
    return DeliveryFix(_(who), _(what), tone)


# --- The clock of the chat


def clock_marks(record: Record) -> tuple[ClockMark, ...]:
    """Return when it began, what was sent, until when it could be proved, and when the chat closes, in order."""
    row = record.row
    marks = [(row.began_at, "began"), (row.proofs_until, "last"), (row.chat_ends_at, "closes")]
    marks += [(one.line.created_at, "sent" if one.line.state in LEFT else "not_sent") for one in record.messages]
    if row.ended_at is not None and not record.is_changed:
        marks.append((row.ended_at, "ended"))
    elif record.now < row.chat_ends_at:
        marks.append((record.now, "now"))
    whole = max(1.0, (row.chat_ends_at - row.began_at).total_seconds())
    placed = (ClockMark(at, 100 * (at - row.began_at).total_seconds() / whole, name) for at, name in sorted(marks))
    return tuple(replace(mark, place=round(min(100.0, max(0.0, mark.place)), 2)) for mark in placed)


# --- In short, for the caller


def in_short(record: Record) -> str:
    """Return the story in the second person, to be read to the customer once it is clear that they are the caller."""
    if record.is_changed:
        return _("%(end)s.", end=_(words.OUTCOMES[CHANGED].spoken))
    sentences = [*spoken_name(record), *spoken_codes(record), *spoken_proofs(record), *spoken_end(record)]
    if is_our_fault(record):
        sentences.append(_("You did nothing wrong."))
    return " ".join(sentences)


def spoken_name(record: Record) -> Iterator[str]:
    """Yield why the customer could not be found, where they could not."""
    if record.person is not None:
        if not record.person.is_active:
            yield _("Your access is switched off.")
        return
    last = next((visit for visit in reversed(record.visits) if visit.typed or record.row.ticket_id), None)
    if last is None or last.customer_row is not None:
        return
    if record.row.ticket_id is not None:
        yield _("The link was for another customer.") if last.typed else _("The link names no customer of ours.")
    elif last.is_shared:
        yield _("You typed %(typed)s, which several customers share.", typed=last.typed)
    else:
        yield _("You typed %(typed)s, which isn't on file with us.", typed=last.typed)


def spoken_codes(record: Record) -> Iterator[str]:
    """Yield what became of the codes, all SMS before all emails."""
    codes = {code.id: code for code in record.codes}
    sent = [(one, codes[one.line.challenge_id]) for one in record.messages if one.line.challenge_id in codes]
    for carries, name, place in (("sms", "SMS", _("phone")), ("email", _("email"), _("mailbox"))):
        some = [(one, code) for one, code in sent if CARRIES.get(code.method, "email") == carries]
        if not some:
            continue
        times = {1: "", 2: _(" twice")}.get(len(some), _(" %(n)s times", n=words.number(len(some))))
        yield _("You asked for an %(name)s code%(times)s.", name=name, times=times)
        states = Counter(_spoken_state(one) for one, _code in some)
        for state, count in states.items():
            which = words.some_of(count, len(some))
            if state == DeliveryState.DROPPED:
                dropped = (pair for pair in some if pair[0].line.state == state)
                yield from dict.fromkeys(_spoken_why_not(record, one, code) for one, code in dropped)
            else:
                yield _(SPOKEN_STATES[state], name=name, which=which)
        if not states.keys() & {*LEFT, DeliveryState.DROPPED}:
            yield _("So no code reached your %(place)s.", place=place)


def _spoken_state(message: DeliveryFacts) -> str:
    return message.line.state if message.line.state in SPOKEN_STATES else DeliveryState.REFUSED


def _spoken_why_not(record: Record, message: DeliveryFacts, code: CodeFacts) -> str:
    _why, key = _why_not_sent(record, message.line.reason, code)
    return _(words.SPOKEN_NOT_SENT.get(key, "The code didn't leave in time."))


def spoken_proofs(record: Record) -> Iterator[str]:
    """Yield what was proved before the end, and which tries were wrong."""
    tries = [event for event in record.events if event.kind == "proof_failed"]
    by_method = Counter(words_of(str(event.facts.get("method") or "")).proof for event in tries)
    for what, count in by_method.items():
        yield _("You entered %(count)s.", count=counted(count, f"wrong {what}", f"wrong {what}s"))
    for why in dict.fromkeys(str(event.facts.get("why") or "") for event in tries):
        if why in words.SPOKEN_WRONG:
            yield _(words.SPOKEN_WRONG[why])
    if record.row.outcome != VERIFIED:
        passed = (event for event in record.events if event.kind == "step_passed")
        for method in dict.fromkeys(str(event.facts.get("method") or "") for event in passed):
            yield _("Your %(method)s was right.", method=method_name(method))


def spoken_end(record: Record) -> Iterator[str]:
    """Yield how it ended and whether the chat knows, or how much time is left."""
    row, line = record.row, record.callback.line if record.callback else None
    if row.outcome is None:
        yield _("It isn't over: you have %(left)s left.", left=span((row.proofs_until - record.now).total_seconds()))
        return
    outcome = words.OUTCOMES.get(row.outcome, words.OutcomeWords(row.outcome, "plain", ""))
    after = span((row.ended_at - row.began_at).total_seconds())
    ended = _(words.SPOKEN_END.get(record.why_ended, outcome.spoken), after=after)
    if line is not None and line.state == DeliveryState.ACCEPTED:
        result = record.journey.results.get(row.outcome, "")
        yield _("%(ended)s and the chat got “%(result)s”.", ended=ended, result=result)
        return
    yield f"{ended}."
    if line is not None:
        yield _(SPOKEN_CHAT.get(line.state, "The answer didn't reach the chat."))


def is_our_fault(record: Record) -> bool:
    """Report whether it failed for a reason that is none of the customer's."""
    if record.row.outcome is None:
        return False
    codes = [one for one in record.messages if one.line.challenge_id]
    no_code = bool(codes) and record.row.outcome in ("expired", "no_code", "cancelled")
    no_code = no_code and all(one.line.state in LOST for one in codes)
    is_unheard = record.callback is not None and record.callback.line.state in LOST
    return no_code or is_unheard or (record.why_ended or record.row.outcome) in words.OUR_FAULT


# --- Every record


def raw_timeline(record: Record) -> list[Moment]:
    """Return every record as it stands, in order; ``clause`` is its kind."""
    rows, vocabulary = [], words.Vocabulary(record.journeys, {})
    for event in record.events:
        text, by = words.event_sentence(event.kind, event.facts, vocabulary), words.source(event.admin, event.came_from)
        rows.append(Moment(event.at, _("%(text)s By %(who)s.", text=text, who=by) if by else text, "audit"))
    for visit in record.visits:
        typed = visit.typed or "–"
        rows.append(Moment(visit.at, _("A browser sent the first form; typed last: %(typed)s", typed=typed), "visit"))
    for code in record.codes:
        method, until = method_name(code.method), record.time(code.expires_at)
        rows.append(Moment(code.at, _("%(method)s issued, valid until %(until)s", method=method, until=until), "code"))
        if code.used_at is not None:
            rows.append(Moment(code.used_at, _("%(method)s used", method=method), "code"))
        if code.replaced_at is not None:
            rows.append(Moment(code.replaced_at, _("%(method)s replaced by a new one", method=method), "code"))
    for delivery in record.deliveries:
        line = delivery.line
        queued = _("%(kind)s for %(target)s queued", kind=line.kind, target=line.target)
        rows.append(Moment(line.created_at, queued, line.kind))
        for one in delivery.tries:
            took = f", {span((one.milliseconds or 0) / 1000)}" if one.milliseconds is not None else ""
            detail = f": {one.detail}" if one.detail else ""
            values = {"number": one.number, "fate": one.fate, "detail": detail, "took": took}
            rows.append(Moment(one.began_at, _("Attempt %(number)s: %(fate)s%(detail)s%(took)s", **values), line.kind))
        if line.ended_at is not None:
            ended = _("%(kind)s %(state)s", kind=line.kind, state=line.state)
            rows.append(Moment(line.ended_at, f"{ended} ({line.reason})" if line.reason else ended, line.kind))
    return sorted(rows, key=lambda moment: moment.at)
