"""JSON that strangers post, read so that whatever passes can be stored, shown and written again."""

from __future__ import annotations

import json
from typing import NoReturn

BRACKETS = 300  # at most; far more than any callback has, far fewer than Python's own limit of nesting


def read_json(body: bytes | str) -> object:
    """The document, or None where it is none: not UTF-8, nested absurdly, or with text that no encoding can hold."""
    try:
        text = body.decode("utf-8") if isinstance(body, bytes) else body
        if text.count("[") + text.count("{") > BRACKETS:
            return None
        content: object = json.loads(text, parse_constant=_refuse)
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except ValueError:
        return None
    return content


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
