"""The services of one process, and ``build``, the only place that creates them.

Server, commands, doctor, test drives and tests all get their services here, so none can be wired differently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, MasterKeys, Passwords
from auth_portal.errors import Misconfigured
from auth_portal.gateways.addresses import NetworkPolicy
from auth_portal.gateways.flow import PATHS, FlowGateway
from auth_portal.gateways.outbound import Outbound, to_one
from auth_portal.gateways.way_out import WayOut
from auth_portal.methods import Method, all_methods
from auth_portal.services.access.admin_sessions import AdminSessions
from auth_portal.services.access.admins import Admins
from auth_portal.services.access.api_answers import ApiAnswers
from auth_portal.services.access.api_keys import ApiKeys
from auth_portal.services.access.passkeys import AdminPasskeys
from auth_portal.services.alerts import Alerts
from auth_portal.services.audit_chain import AuditStream, Sealer
from auth_portal.services.config.appearance import Logos
from auth_portal.services.config.channel_editor import ChannelEditor
from auth_portal.services.config.configuration import Configuration
from auth_portal.services.config.history import JourneyHistory
from auth_portal.services.config.journey_editor import JourneyEditor
from auth_portal.services.config.snapshot import Journeys, Snapshot
from auth_portal.services.delivery.callbacks import CallbackDelivery
from auth_portal.services.delivery.messages import MessageDelivery
from auth_portal.services.delivery.notices import Notices
from auth_portal.services.delivery.outbox import Courier, Outbox, ToPrograms
from auth_portal.services.delivery.retry import Retries
from auth_portal.services.delivery.webhooks import Endpoints, Webhooks
from auth_portal.services.directory.credentials import Credentials
from auth_portal.services.directory.customers import Customers
from auth_portal.services.directory.links import CredentialLinks
from auth_portal.services.history.audit_check import AuditChecks
from auth_portal.services.history.audit_trail import AuditTrail, in_words
from auth_portal.services.history.delivery_lists import DeliveryLists
from auth_portal.services.history.overview import Overview
from auth_portal.services.history.results import JourneyResults
from auth_portal.services.history.stories import Stories
from auth_portal.services.imports.bulk import BulkSave
from auth_portal.services.imports.imports import CommandImport, Imports
from auth_portal.services.imports.work import ImportWork
from auth_portal.services.operations.dispatcher import INLINE_POLL_SECONDS, SEAL_SECONDS, Dispatcher, Lanes, Loop, Pace
from auth_portal.services.operations.health import BEAT_SECONDS, Health
from auth_portal.services.operations.personal_data import Erasure, PersonExport
from auth_portal.services.operations.retention import Housekeeping
from auth_portal.services.reach.reach import Reaches
from auth_portal.services.rehearsal.drives import Drives
from auth_portal.services.rehearsal.trials import Trials
from auth_portal.services.verification import tries
from auth_portal.services.verification.begin import Beginnings, Landings
from auth_portal.services.verification.end import Endings
from auth_portal.services.verification.moves import VisitMoves
from auth_portal.services.verification.prove import Gate, Proofs
from auth_portal.services.verification.tickets import Tickets
from auth_portal.settings import CompiledTemplates, Settings, delivered
from auth_portal.store.db import Database, Transactions, schema_fault
from auth_portal.store.keys import load_keyring

RETRY_SECONDS = 2.0  # between two tries to ``build`` of a process that starts while there is no database (D9)


NOTHING_KNOWN = Snapshot.unread()  # of the configuration, before a process serves


@dataclass(frozen=True)
class Verifications:
    """The services of a verification, from the ticket to the end."""

    tickets: Tickets
    landings: Landings
    beginnings: Beginnings
    proofs: Proofs
    moves: VisitMoves
    endings: Endings

    @classmethod
    def build(
        cls,
        transactions: Transactions,
        journeys: Journeys,
        methods: Mapping[str, Method],
        passwords: Passwords,
        courier: Courier,
        wake: Callable[[], None],
        to_programs: ToPrograms,
    ) -> Self:
        """Return the services of one process. ``wake`` announces that a message was put into the outbox."""
        tickets = Tickets(transactions, journeys)
        landings = Landings(transactions, journeys, tickets)
        endings = Endings(transactions, journeys, courier, to_programs)
        gate = Gate(journeys, endings)
        return cls(
            tickets=tickets,
            landings=landings,
            beginnings=Beginnings(transactions, journeys, landings, endings, wake),
            proofs=Proofs(transactions, journeys, methods, passwords, gate, endings, wake),
            moves=VisitMoves(transactions, journeys, methods, gate, endings, wake),
            endings=endings,
        )


@dataclass(frozen=True)
class Services:
    """What requests are answered with."""

    settings: Settings
    transactions: Transactions
    outbound: WayOut
    flow: FlowGateway

    # a customer's verification
    journeys: Journeys
    methods: Mapping[str, Method]
    verifications: Verifications

    # what leaves, and what is wrong with it
    dispatcher: Dispatcher
    messages: MessageDelivery
    delivery_lists: DeliveryLists
    retries: Retries
    notices: Notices
    alerts: Alerts
    webhooks: Webhooks
    health: Health
    heart: Loop

    # what happened
    stories: Stories
    audit_trail: AuditTrail
    audit_checks: AuditChecks
    audit_stream: AuditStream
    overview: Overview

    # who may use the configuration page and the API
    admins: Admins
    admin_sessions: AdminSessions
    admin_passkeys: AdminPasskeys
    api_keys: ApiKeys
    api_answers: ApiAnswers

    # what admins decide
    configuration: Configuration
    journey_editor: JourneyEditor
    journey_history: JourneyHistory
    channel_editor: ChannelEditor
    logos: Logos

    # before customers come
    trials: Trials
    reaches: Reaches
    drives: Drives

    # the directory
    command_import: CommandImport
    bulk_save: BulkSave
    imports: Imports
    customers: Customers
    credentials: Credentials
    credential_links: CredentialLinks
    erasure: Erasure
    person_export: PersonExport

    @property
    def clock(self) -> Clock:
        """Return the clock that all time comes from."""
        return self.transactions.clock

    @property
    def keyring(self) -> Keyring:
        """Return the data keys."""
        return self.transactions.keyring

    @property
    def tickets(self) -> Tickets:
        """Return what registers and finds tickets."""
        return self.verifications.tickets

    @property
    def results(self) -> JourneyResults:
        """Return what counts and exports answers and acceptances."""
        return JourneyResults(self.transactions)

    @property
    def endpoints(self) -> Endpoints:
        """Return what manages the webhooks of programs."""
        return Endpoints(self.transactions, self.outbound, self.notices.change_to_owners)

    def close(self) -> None:
        """Write what was counted, and close every connection. Stop the dispatcher first if it was started."""
        self.health.write_counts()
        self.transactions.database.close()


def build(settings: Settings, clock: Clock, poll_seconds: float = INLINE_POLL_SECONDS) -> Services:
    """Return every service of one process, nothing started: the one wiring of server, commands, doctor and tests.

    ``poll_seconds`` is how often a busy dispatcher looks for work that nothing announced. Raise Misconfigured with one
    line for each fault, and KeyFault if the keys do not open this database. ``Services.close()`` ends it.
    """
    master = MasterKeys(settings.master_keys())
    if fault := schema_fault(settings.database):
        raise Misconfigured(fault)
    database = Database(settings.database, settings.database_connections)
    try:
        keyring = load_keyring(database, master, require_macs=settings.require_macs)
        way_out = Outbound(NetworkPolicy.from_settings(settings))
        return _wire(settings, Transactions(database, keyring, clock), way_out, Passwords(), poll_seconds)
    except BaseException:
        database.close()
        raise


def _wire(
    settings: Settings, transactions: Transactions, outbound: WayOut, passwords: Passwords, poll_seconds: float
) -> Services:
    journeys = Journeys(transactions, has_sandbox=settings.has_sandbox)
    notices = Notices(journeys, settings.public_url)
    foundation = Foundation(
        settings=settings,
        transactions=transactions,
        passwords=passwords,
        outbound=outbound,
        flow=FlowGateway(outbound, sandbox_url=settings.sandbox_url),
        journeys=journeys,
        notices=notices,
        webhooks=Webhooks(transactions, outbound, notices.change_to_owners),
    )
    return _build_services(foundation, _build_core(foundation, poll_seconds))


def _wire_drive(real: Foundation, transactions: Transactions, way_out: WayOut) -> Services:
    """Return the services of a test drive: the same wiring on the drive's database, without a sandbox."""
    settings = real.settings.model_copy(update={"sandbox": "off", "audit_syslog": ""})
    return _wire(settings, transactions, way_out, real.passwords, INLINE_POLL_SECONDS)


@dataclass(frozen=True)
class Foundation:
    """What nearly every service is built on."""

    settings: Settings
    transactions: Transactions
    passwords: Passwords
    outbound: WayOut
    flow: FlowGateway
    journeys: Journeys
    notices: Notices
    webhooks: Webhooks


@dataclass(frozen=True)
class Core:
    """The verifications, and what sends their codes and results; ``wake`` announces that there is something to send."""

    methods: Mapping[str, Method]
    verifications: Verifications
    alerts: Alerts
    dispatcher: Dispatcher
    messages: MessageDelivery
    wake: Callable[[], None]
    health: Health
    audit_stream: AuditStream


def _build_core(on: Foundation, poll_seconds: float) -> Core:
    outbox, to_programs = Outbox(on.transactions, on.notices.to_programs), on.notices.to_programs
    callbacks = CallbackDelivery(on.transactions, on.flow)
    messages = MessageDelivery(
        on.transactions,
        on.journeys,
        on.outbound,
        on.webhooks,
        tries,
        host=on.settings.shown_host,
        templates=delivered("templates"),
        compiled=CompiledTemplates("messages."),
        sandbox_url=on.settings.sandbox_url,
    )
    threads = on.settings.delivery_threads
    pace = Pace(poll_seconds, on.settings.idle_poll_seconds)
    lanes = Lanes(outbox, callbacks, messages, on.webhooks, on.transactions.machine, threads=threads, pace=pace)
    methods = all_methods(on.passwords)
    results, codes, _events = lanes.all
    verifications = Verifications.build(
        on.transactions, on.journeys, methods, on.passwords, results, codes.wake, to_programs
    )
    alerts = Alerts(on.transactions, on.journeys, on.notices, on.webhooks, public_url=on.settings.public_url)
    import_work = ImportWork(on.transactions, on.passwords, on.notices, is_aside=True)
    housekeeping = Housekeeping(on.transactions)
    sealer, health = Sealer(on.transactions), Health(on.transactions, on.passwords.give_memory_back)
    target, way_out = on.settings.audit_syslog, on.outbound
    if target:
        host, _colon, port = target.rpartition(":")
        certificates = on.settings.ca_bundle, on.settings.audit_syslog_cert
        way_out = to_one(host.strip("[]"), int(port), *certificates)
    stream = AuditStream(on.transactions, way_out, target, on.settings.host)
    is_right, fault = on.transactions.machine.is_right, "audit_stream_fault"
    streaming = Loop("audit-stream", stream.send, every_seconds=SEAL_SECONDS, fault=fault, may_work=is_right)
    more = [streaming] if target else []
    dispatcher = Dispatcher(lanes, verifications.endings, alerts, import_work, housekeeping, sealer.seal, *more)
    return Core(methods, verifications, alerts, dispatcher, messages, lanes.wake, health, stream)


def _build_services(on: Foundation, core: Core) -> Services:
    settings, journeys, notices, passwords = on.settings, on.journeys, on.notices, on.passwords
    logos, admins = Logos(on.transactions), Admins(on.transactions, passwords, notices)
    admin_sessions = AdminSessions(on.transactions, passwords, notices)
    has_sandbox, notify = settings.has_sandbox, in_words(notices.change_to_owners)
    configuration = Configuration(on.transactions, has_sandbox=has_sandbox, way_out=on.outbound, notify_owners=notify)
    return Services(
        settings=settings,
        transactions=on.transactions,
        outbound=on.outbound,
        flow=on.flow,
        journeys=journeys,
        methods=core.methods,
        notices=notices,
        alerts=core.alerts,
        webhooks=on.webhooks,
        dispatcher=core.dispatcher,
        messages=core.messages,
        health=core.health,
        heart=Loop("heartbeat", core.health.beat, every_seconds=BEAT_SECONDS, fault="heartbeat_fault"),
        verifications=core.verifications,
        delivery_lists=DeliveryLists(on.transactions, lambda: journeys.current().portal.retention.records_stored),
        retries=Retries(on.transactions, core.wake),
        stories=Stories(on.transactions, journeys, PATHS),
        audit_trail=AuditTrail(on.transactions, lambda: journeys.current().titles, {**ApiKeys.scopes, **Alerts.titles}),
        audit_checks=AuditChecks(on.transactions),
        audit_stream=core.audit_stream,
        overview=Overview(on.transactions, journeys),
        admins=admins,
        admin_sessions=admin_sessions,
        admin_passkeys=AdminPasskeys(on.transactions, admins, admin_sessions, settings.public_url),
        api_keys=ApiKeys(on.transactions, notices),
        api_answers=ApiAnswers(on.transactions),
        configuration=configuration,
        journey_editor=JourneyEditor(on.transactions, configuration),
        journey_history=JourneyHistory(on.transactions),
        channel_editor=ChannelEditor(on.transactions, configuration),
        logos=logos,
        trials=Trials(on.transactions, admins, core.wake),
        reaches=Reaches(on.transactions, journeys),
        drives=Drives(on.transactions, journeys, logos.content, partial(_wire_drive, on), settings.public_url),
        command_import=CommandImport(on.transactions, passwords, notices),
        bulk_save=BulkSave(on.transactions, passwords, on.notices),
        imports=Imports(on.transactions, journeys, notices, core.dispatcher.wake_imports),
        customers=Customers(on.transactions, passwords, journeys, notices),
        credentials=Credentials(on.transactions, journeys, notices, tries),
        credential_links=CredentialLinks(on.transactions, passwords, journeys, notices, tries, settings.public_url),
        erasure=Erasure(on.transactions, notices),
        person_export=PersonExport(on.transactions),
    )
