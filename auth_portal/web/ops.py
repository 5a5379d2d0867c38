"""What a supervisor asks: whether the process lives, whether it is ready, and its metrics."""

from __future__ import annotations

import hmac
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from flask import Blueprint, Response, abort, current_app, g, jsonify, make_response, request
from prometheus_client import ProcessCollector

from auth_portal.telemetry import BUCKET, METRICS, SUM, Metric, log_event
from auth_portal.web.context import EXTENSION, services

ops = Blueprint("ops", __name__)
PROC = Path("/proc")
STREAM_GAUGES = {
    "blocks": "Blocks of the audit trail that the SIEM has not received.",
    "seconds": "How long the oldest block that the SIEM has not received has waited, since it was sealed.",
    "failures": "Tries in a row that failed to send to the SIEM.",
    "received_timestamp_seconds": "When the newest block that the SIEM has received was sealed.",
}
Counted = Mapping[str, Mapping[tuple[str, ...], float]]


@ops.get("/healthz")
def healthz() -> Response:
    """Answer that the process lives, and which version it is."""
    return make_response(current_app.config["HEALTHZ"], 200, {"Content-Type": "text/plain; charset=utf-8"})


@ops.get("/readyz")
def readyz() -> Response:
    """Answer whether the portal can do its job, with reasons for a caller who may see them."""
    if EXTENSION not in current_app.extensions:  # the database was never there since this process started
        return make_response(jsonify({"ready": False}), 503)
    faults = services().health.faults()
    warnings = [] if faults else services().health.last_warnings()
    for reason in faults + warnings:
        log_event("not_ready", level=logging.WARNING, reason=reason)
    answer: dict[str, object] = {"ready": not faults}
    if _may_see():
        answer |= {"faults": faults, "warnings": warnings}
    return make_response(jsonify(answer), 503 if faults else 200)


@ops.get("/metrics")
def metrics() -> Response:
    """Answer with Prometheus metrics: those of the portal from the database, those of the processes from the system."""
    if not _may_see():
        abort(404)
    with services().health.measuring() as measured:
        families = [*totals(measured.totals()), *gauges(measured), *processes()]
    lines = [line for family in families for line in family.lines()]
    return make_response("".join(lines), 200, {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


class Family(NamedTuple):
    """A metric as Prometheus reads it. A sample is the end of its name, the text of its labels, and its own value.

    prometheus_client checks each label of each sample by regular expressions, and takes five times as long.
    """

    name: str
    kind: str
    help: str
    samples: Iterable[tuple[str, str, float]]

    def lines(self) -> Iterator[str]:
        """Yield its lines in the text format of Prometheus, version 0.0.4."""
        yield f"# HELP {self.name} {self.help}\n# TYPE {self.name} {self.kind}\n"
        for ending, labels, value in self.samples:
            yield f"{self.name}{ending}{{{labels}}} {value!r}\n" if labels else f"{self.name}{ending} {value!r}\n"


def labelled(names: Sequence[str], values: Sequence[str]) -> str:
    """Return labels as they stand in a sample."""
    return ",".join([f'{name}="{_escaped(text)}"' for name, text in zip(names, values, strict=True)])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def totals(counted: Counted) -> Iterator[Family]:
    """Yield what all processes have counted since the portal was installed."""
    for name, metric in METRICS.items():
        if metric.ends:
            yield Family(f"auth_portal_{name}", "histogram", metric.help, _of_histogram(name, metric, counted))
        else:
            shown = {**dict.fromkeys(metric.shown, 0.0), **counted.get(name, {})}
            samples = [("", labelled(metric.labels, labels), value) for labels, value in sorted(shown.items())]
            yield Family(f"auth_portal_{name}_total", "counter", metric.help, samples)


def _of_histogram(name: str, metric: Metric, counted: Counted) -> Iterator[tuple[str, str, float]]:
    """Yield a histogram from the counts of its buckets, each of which stands for itself where it is stored."""
    counts, ends = counted.get(name + BUCKET, {}), [*(f"{end:g}" for end in metric.ends), "+Inf"]
    for labels, seconds in sorted(counted.get(name + SUM, {}).items()):
        so_far, text = 0.0, labelled(metric.labels, labels)
        before = f"{text}," if text else ""
        for end in ends:
            so_far += counts.get((*labels, end), 0)
            yield BUCKET, f'{before}le="{end}"', so_far
        yield "_count", text, so_far
        yield SUM, text, seconds


def gauges(measured: Any) -> Iterator[Family]:
    """Yield how things stand now."""
    health, alerts = services().health, services().alerts
    due, waiting = measured.due_seconds(), measured.waiting()
    yield from _last_day(measured, waiting)
    yield _gauge("queue_deliveries", "Deliveries under way, up to 10,000 of each kind.", "kind", waiting)
    yield _gauge("queue_oldest_seconds", "How long the oldest due delivery of a kind has waited.", "kind", due)
    yield _gauge("oldest_due_seconds", "How long the oldest due delivery has waited.", "", {"": max(due.values())})
    yield _gauge("channel_failures", "Failures in a row of each channel.", "channel", measured.channel_failures())
    yield _gauge("alerts_open", "Alerts that are open, by kind.", "kind", alerts.open_kinds(measured.work))
    names = ("channel", "country", "window")
    used = [("", labelled(names, labels), share) for labels, share in alerts.cap_shares(measured.work).items()]
    yield Family("auth_portal_cap_used_ratio", "gauge", "The share of a channel's cap that is used.", used)
    at_work = {"": int(alerts.is_dispatching(measured.work))}
    yield _gauge("dispatcher_at_work", "1 if a dispatcher was at work within the last half a minute.", "", at_work)
    ahead = {"": health.clock_ahead_seconds()}
    yield _gauge("clock_ahead_seconds", "This machine's clock less the database's.", "", ahead)
    unsealed = {"": measured.audit_unsealed_seconds()}
    yield _gauge("audit_unsealed_seconds", "How long an event has waited to be sealed.", "", unsealed)
    yield _gauge("audit_blocks", "The newest block of the audit trail; never falls.", "", {"": measured.audit_blocks()})
    lag = services().audit_stream.figures(measured.work)  # empty without a stream, so that no rule waits for it
    for name, words in STREAM_GAUGES.items():
        yield _gauge(f"audit_stream_{name}", words, "", {"": lag[name]} if name in lag else {})
    yield _gauge("ready", "1 if this process can do its job.", "", {"": int(not health.faults())})
    yield _gauge("build_info", "Always 1, with the version.", "version", {current_app.config["VERSION"]: 1})


def _last_day(measured: Any, waiting: Mapping[str, int]) -> Iterator[Family]:
    """Yield two counts of the last 24 to 25 hours; all others are of all time."""
    found = measured.last_day("deliveries_ended", "verifications_ended")
    pending: dict[tuple[str, ...], int] = {(kind, "pending"): number for kind, number in waiting.items()}
    live: dict[tuple[str, ...], int] = {(journey, "live"): number for journey, number in measured.live().items()}
    for name, labels, words, now in (
        ("deliveries", ("kind", "state"), "Deliveries that ended in the last 24 hours, and those under way.", pending),
        ("verifications", ("journey", "outcome"), "Verifications of the last 24 hours, and those that are live.", live),
    ):
        counts: Counter[tuple[str, ...]] = Counter(now)
        for all_labels, value in found.get(f"{name}_ended", {}).items():
            counts[all_labels[:-1]] += int(value)
        samples = [("", labelled(labels, key), value) for key, value in counts.items()]
        yield Family(f"auth_portal_{name}", "gauge", words, samples)


def _gauge(name: str, help_text: str, label: str, values: Mapping[Any, float]) -> Family:
    """Return a gauge with one label, or with none where its name is empty."""
    samples = [("", labelled((label,), (key,)) if label else "", value) for key, value in values.items()]
    return Family(f"auth_portal_{name}", "gauge", help_text, samples)


def processes() -> Iterator[Family]:
    """Yield what the processes of this server use together, so that it does not matter which of them answers."""
    found: dict[str, tuple[str, str, list[float]]] = {}
    for pid in server_processes():
        for metric in ProcessCollector(pid=pid.__str__, registry=None).collect():
            sample = metric.samples[0]
            found.setdefault(sample.name, (metric.type, metric.documentation, []))[2].append(sample.value)
    for name, (kind, words, values) in found.items():
        value = min(values) if name == "process_start_time_seconds" else sum(values)
        yield Family(name, kind, words, [("", "", value)])


def server_processes() -> list[str]:
    """Return the ids of this server's processes. It forks its workers, so all have one command line."""
    try:
        own = (PROC / "self/cmdline").read_bytes()
        parent = (PROC / "self/stat").read_text().rpartition(")")[2].split()[1]
        others = [parent, *(PROC / parent / "task" / parent / "children").read_text().split()]
    except OSError:  # the system has no such files, or does not show them
        return ["self"]
    found = []
    for pid in others:
        with suppress(OSError):  # one that has just ended
            if (PROC / pid / "cmdline").read_bytes() == own:
                found.append(pid)
    return found or ["self"]


def _may_see() -> bool:
    settings = services().settings
    if settings.metrics_bind and not g.get("is_for_operators"):
        return False
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if settings.metrics_token:
        return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), settings.metrics_token.encode())
    return settings.is_loopback or bool(settings.metrics_bind)
