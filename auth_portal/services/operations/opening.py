"""Opening an installed portal for an operator's command, and saying in one line why that cannot be done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from auth_portal.clock import Clock
from auth_portal.crypto import KeyFault, Keyring, MasterKeys, Passwords
from auth_portal.errors import Misconfigured
from auth_portal.gateways.channels import check_destination
from auth_portal.gateways.outbound import NetworkPolicy, Outbound
from auth_portal.services.access.admins import Admins
from auth_portal.services.access.api_keys import ApiKeys
from auth_portal.services.config.configuration import Configuration
from auth_portal.services.directory.credentials import Credentials
from auth_portal.services.directory.customers import row_of
from auth_portal.services.directory.directory import Directory
from auth_portal.services.directory.erasure import Erasure
from auth_portal.services.journeys import Journeys
from auth_portal.services.notices import Notices
from auth_portal.services.operations.keys import load_keyring
from auth_portal.settings import Settings
from auth_portal.store.db import Database, plain_reason, schema_fault


@dataclass(frozen=True)
class Opened:
    """What a command works with."""

    settings: Settings
    master: MasterKeys
    database: Database
    keyring: Keyring
    clock: Clock

    @property
    def configuration(self) -> Configuration:
        """Portal settings, channels and journeys, held against the operator's policy."""
        outbound = Outbound(NetworkPolicy.from_settings(self.settings))
        return Configuration(
            self.database,
            self.keyring,
            self.clock,
            has_sandbox=self.settings.has_sandbox,
            check_origin=outbound.check_origin,
            check_channel=partial(check_destination, outbound=outbound),
        )

    @property
    def directory(self) -> Directory:
        """The customers, in bulk."""
        return Directory(self.database, self.keyring, Passwords(), self.clock, self.notices)

    @property
    def erasure(self) -> Erasure:
        """The erasing of people."""
        return Erasure(self.database, self.keyring, self.clock)

    @property
    def credentials(self) -> Credentials:
        """People's credentials."""
        journeys = Journeys(self.database, self.keyring, has_sandbox=self.settings.has_sandbox)
        return Credentials(self.database, self.keyring, self.clock, journeys, self.notices)

    def row_of(self, customer_id: str) -> str:
        """The row of a customer ID. Raises NotFound."""
        with self.database.read() as connection:
            return row_of(connection, customer_id)

    @property
    def notices(self) -> Notices:
        """What owners and customers are told; it leaves when the portal serves."""
        return Notices(self.keyring, Journeys(self.database, self.keyring, has_sandbox=self.settings.has_sandbox))

    @property
    def admins(self) -> Admins:
        """Who may use the configuration page."""
        return Admins(self.database, self.keyring, self.clock, Passwords(), self.notices)

    @property
    def api_keys(self) -> ApiKeys:
        """The keys of programs."""
        return ApiKeys(self.database, self.keyring, self.clock, self.notices)

    @property
    def default_region(self) -> str:
        """Where phone numbers without a country code are from."""
        journeys = Journeys(self.database, self.keyring, has_sandbox=self.settings.has_sandbox)
        return journeys.current().portal.default_region


@contextmanager
def opened(settings: Settings, clock: Clock) -> Iterator[Opened]:
    """The database and its keys for the time of a block. Raises Misconfigured where they cannot be used."""
    with plain_faults():
        master = MasterKeys(settings.master_keys())
        if fault := schema_fault(settings.database):
            raise Misconfigured(fault)
        with closing(Database(settings.database)) as database:
            yield Opened(settings, master, database, load_keyring(database, master), clock)


@contextmanager
def plain_faults() -> Iterator[None]:
    """Turns a full disk, a read-only folder or a database that is away into one line (Misconfigured)."""
    try:
        yield
    except SQLAlchemyError as error:
        raise Misconfigured(f"The database cannot be used: {plain_reason(error)}.") from None
    except KeyFault as fault:
        raise Misconfigured(f"What is stored cannot be opened: {fault}.") from None
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise Misconfigured(f"{place}{error.strerror or error}.") from None
