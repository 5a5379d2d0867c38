"""The services of one process, as the web and the sandbox see them. ``bootstrap`` makes them, once per process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring
from auth_portal.methods.contract import Method
from auth_portal.services.access.admin_sessions import AdminSessions
from auth_portal.services.access.admins import Admins
from auth_portal.services.access.api_answers import ApiAnswers
from auth_portal.services.access.api_keys import ApiKeys
from auth_portal.services.alerts.alerts import Alerts
from auth_portal.services.alerts.webhooks import Webhooks
from auth_portal.services.config.channel_editor import ChannelEditor
from auth_portal.services.config.configuration import Configuration
from auth_portal.services.config.journey_editor import JourneyEditor
from auth_portal.services.config.journey_history import JourneyHistory
from auth_portal.services.config.logos import Logos
from auth_portal.services.config.portal_editor import PortalEditor
from auth_portal.services.delivery_lists import DeliveryLists
from auth_portal.services.directory.credential_links import CredentialLinks
from auth_portal.services.directory.credentials import Credentials
from auth_portal.services.directory.directory import Directory
from auth_portal.services.directory.erasure import Erasure
from auth_portal.services.directory.people import People
from auth_portal.services.directory.person_export import PersonExport
from auth_portal.services.dispatcher import Dispatcher
from auth_portal.services.imports.imports import Imports
from auth_portal.services.journeys import Journeys
from auth_portal.services.notices import Notices
from auth_portal.services.operations.health import Health
from auth_portal.services.setup.drives import Drives
from auth_portal.services.setup.reach import Reaches
from auth_portal.services.setup.trials import Trials
from auth_portal.services.stories.audit_trail import AuditTrail
from auth_portal.services.stories.overview import Overview
from auth_portal.services.stories.stories import Stories
from auth_portal.services.tickets import Tickets
from auth_portal.services.verifications import Verifications
from auth_portal.settings import Settings


@dataclass(frozen=True)
class Services:
    """What requests are answered with."""

    settings: Settings
    clock: Clock
    keyring: Keyring

    # the customer's way
    journeys: Journeys
    methods: Mapping[str, Method]
    verifications: Verifications
    tickets: Tickets

    # what leaves, and what is wrong with it
    dispatcher: Dispatcher
    delivery_lists: DeliveryLists
    notices: Notices
    alerts: Alerts
    webhooks: Webhooks
    health: Health

    # what happened
    stories: Stories
    audit_trail: AuditTrail
    overview: Overview

    # who may work here
    admins: Admins
    admin_sessions: AdminSessions
    api_keys: ApiKeys
    api_answers: ApiAnswers

    # what admins decide
    configuration: Configuration
    journey_editor: JourneyEditor
    journey_history: JourneyHistory
    channel_editor: ChannelEditor
    portal_editor: PortalEditor
    logos: Logos

    # before customers come
    trials: Trials
    reaches: Reaches
    drives: Drives

    # the directory
    directory: Directory
    imports: Imports
    people: People
    credentials: Credentials
    credential_links: CredentialLinks
    erasure: Erasure
    person_export: PersonExport
