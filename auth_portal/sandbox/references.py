"""References as Flow makes them, and the links that carry them.

Flow documents ``f7_4hn5=8f&%#nK=``, put into the link as it is. Ours have that shape and more of its traps: an
``&`` that ends a naive parameter, a ``%`` that starts no escape, a ``+`` that is no space and a ``#`` whose tail
only the browser sees. They never have what nobody could undo: a ``%`` before two hex digits, or an ending that
looks like a parameter some app has added.
"""

from __future__ import annotations

import secrets
import string
import uuid
from urllib.parse import quote

from auth_portal.sandbox.contract import JourneyCard, ReferenceStyle

LETTERS = string.ascii_letters + string.digits
NOT_HEX = "ghjkmnpqrstuvwxyz"


def new_reference(style: ReferenceStyle) -> str:
    """An unguessable reference: 131 bits in Flow's documented shape, or a UUID."""
    if style is ReferenceStyle.PLAIN:
        return str(uuid.uuid4())
    return f"{_some(2)}_{_some(6)}={_some(3)}&%{secrets.choice(NOT_HEX)}{_some(3)}+{_some(3)}&{_some(2)}%#{_some(4)}="


def address_of(public_url: str, card: JourneyCard) -> str:
    """What the author of a flow pastes into its node, where no ticket gives each chat a link of its own."""
    return f"{public_url}/" if card.is_default else f"{public_url}/j/{card.slug}"


def link_for(address: str, reference: str, style: ReferenceStyle) -> str:
    """The link as the chat shows it: the node's address with the reference behind it."""
    written = quote(reference, safe="") if style is ReferenceStyle.ENCODED else reference
    return f"{address}?reference={written}"


def _some(count: int) -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(count))
