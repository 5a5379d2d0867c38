"""What a supervisor asks: whether the process lives, whether it is ready, and its metrics."""

from __future__ import annotations

import logging

from flask import Blueprint, Response, abort, current_app, jsonify, make_response, request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from auth_portal.crypto import same_text
from auth_portal.telemetry import log_event
from auth_portal.web.context import EXTENSION, services

ops = Blueprint("ops", __name__)
LABELS = {
    "deliveries": ("kind", "state"),
    "verifications": ("journey", "outcome"),
    "channel_failures": ("channel",),
}
HELP = {
    "deliveries": "Deliveries made in the last 24 hours, by where they stand now.",
    "verifications": "Verifications begun in the last 24 hours, by outcome.",
    "channel_failures": "Failures in a row of each channel.",
}


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
    """Answer with Prometheus metrics, all of them read from the database: the same from every worker."""
    if not _may_see():
        abort(404)
    registry = CollectorRegistry()
    registry.register(_DatabaseCollector())
    return make_response(generate_latest(registry), 200, {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


class _DatabaseCollector(Collector):
    def collect(self) -> list[GaugeMetricFamily]:
        """Return the counts of the database as gauges."""
        health, families = services().health, []
        for name, counts in health.counts().items():
            family = GaugeMetricFamily(f"auth_portal_{name}", HELP[name], labels=LABELS[name])
            for labels, count in counts.items():
                family.add_metric(labels, count)
            families.append(family)
        oldest = GaugeMetricFamily("auth_portal_oldest_due_seconds", "How long the oldest due delivery has waited.")
        oldest.add_metric((), health.oldest_due_seconds())
        ahead = GaugeMetricFamily("auth_portal_clock_ahead_seconds", "This machine's clock less the database's.")
        ahead.add_metric((), health.clock_ahead_seconds())
        unsealed = GaugeMetricFamily("auth_portal_audit_unsealed_seconds", "How long an event has waited to be sealed.")
        unsealed.add_metric((), health.audit_unsealed_seconds())
        blocks = GaugeMetricFamily("auth_portal_audit_blocks", "The newest block of the audit trail; never falls.")
        blocks.add_metric((), health.audit_blocks())
        build = GaugeMetricFamily("auth_portal_build_info", "Always 1, with the version.", labels=("version",))
        build.add_metric((current_app.config["VERSION"],), 1)
        return [*families, oldest, ahead, unsealed, blocks, build]


def _may_see() -> bool:
    settings = services().settings
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if settings.metrics_token:
        return same_text(given, settings.metrics_token)
    return settings.is_loopback
