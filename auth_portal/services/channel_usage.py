"""How many messages a channel has sent today, which its daily cap is counted against (R12)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, select

from auth_portal.gateways.channels import ChannelConfig
from auth_portal.store.models import Counter

CAP = "cap:"  # what the key of a cap's counter begins with
OPEN_SHARE = 0.7  # of a channel's daily cap; the rest is kept for verifications with a ticket (R12)


def cap_key(channel: str, country: str, now: datetime) -> str:
    """The counter of a channel's day and, for SMS, country. Days are those of UTC."""
    return f"{CAP}{channel}:{country}:{now:%Y%m%d}"


def most_today(daily_cap: int, *, is_ticketed: bool) -> int:
    """How many messages may leave in a day, by links with a ticket or without one (R12)."""
    return daily_cap if is_ticketed else max(1, int(daily_cap * OPEN_SHARE))


def used_today(connection: Connection, channel: ChannelConfig, now: datetime) -> dict[str, int]:
    """What a channel with a cap has sent today, by country of its allow-list; e-mail has the country ``""``."""
    countries = {cap_key(channel.name, country, now): country for country in ("", *channel.countries)}
    rows = connection.execute(select(Counter.key, Counter.events).where(Counter.key.in_(list(countries))))
    return {countries[row.key]: row.events for row in rows if row.events > 0}
