"""What a journey may say of the server that it answers."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from auth_portal.services.config.journey import CallbackTarget


@pytest.mark.parametrize("server", ["https://user@flow.example", "https://@flow.example", "https://flow.example."])
def test_r35_one_server_has_one_spelling(server: str) -> None:
    with pytest.raises(ValidationError, match="without a user"):
        CallbackTarget(server=server)


def test_an_origin_is_kept_in_lower_case() -> None:
    assert CallbackTarget(server="https://Flow.Example/").server == "https://flow.example"
