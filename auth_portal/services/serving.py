"""The services of one process, as the web and the sandbox see them. ``bootstrap`` makes them, once per process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring
from auth_portal.methods.contract import Method
from auth_portal.services.admin_sessions import AdminSessions
from auth_portal.services.admins import Admins
from auth_portal.services.alerts import Alerts
from auth_portal.services.api_answers import ApiAnswers
from auth_portal.services.api_keys import ApiKeys
from auth_portal.services.audit_trail import AuditTrail
from auth_portal.services.channel_editor import ChannelEditor
from auth_portal.services.configuration import Configuration
from auth_portal.services.credential_links import CredentialLinks
from auth_portal.services.credentials import Credentials
from auth_portal.services.delivery_lists import DeliveryLists
from auth_portal.services.directory import Directory
from auth_portal.services.dispatcher import Dispatcher
from auth_portal.services.drives import Drives
from auth_portal.services.erasure import Erasure
from auth_portal.services.health import Health
from auth_portal.services.imports import Imports
from auth_portal.services.journey_editor import JourneyEditor
from auth_portal.services.journey_history import JourneyHistory
from auth_portal.services.journeys import Journeys
from auth_portal.services.logos import Logos
from auth_portal.services.notices import Notices
from auth_portal.services.overview import Overview
from auth_portal.services.people import People
from auth_portal.services.person_export import PersonExport
from auth_portal.services.portal_editor import PortalEditor
from auth_portal.services.reach import Reaches
from auth_portal.services.stories import Stories
from auth_portal.services.tickets import Tickets
from auth_portal.services.trials import Trials
from auth_portal.services.verifications import Verifications
from auth_portal.services.webhooks import Webhooks
from auth_portal.settings import Settings


@dataclass(frozen=True)
class Services:
    """What requests are answered with."""

    settings: Settings
    clock: Clock
    keyring: Keyring
    journeys: Journeys
    methods: Mapping[str, Method]
    verifications: Verifications
    dispatcher: Dispatcher
    health: Health
    delivery_lists: DeliveryLists
    notices: Notices
    overview: Overview
    admins: Admins
    admin_sessions: AdminSessions
    tickets: Tickets
    configuration: Configuration
    journey_editor: JourneyEditor
    journey_history: JourneyHistory
    logos: Logos
    directory: Directory
    imports: Imports
    people: People
    erasure: Erasure
    api_keys: ApiKeys
    api_answers: ApiAnswers
    stories: Stories
    audit_trail: AuditTrail
    alerts: Alerts
    webhooks: Webhooks
    channel_editor: ChannelEditor
    trials: Trials
    portal_editor: PortalEditor
    credentials: Credentials
    credential_links: CredentialLinks
    reaches: Reaches
    drives: Drives
    person_export: PersonExport
