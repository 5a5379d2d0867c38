"""What differs between two configurations."""

from __future__ import annotations

from auth_portal.services.config.changes import Difference, differences


def test_the_same_differs_in_nothing() -> None:
    assert differences({"a": {"b": [1, 2]}, "c": True}, {"c": True, "a": {"b": [1, 2]}}) == ()


def test_each_key_that_differs_is_told_with_both_values() -> None:
    before = {"name": "Balance", "active": True, "limits": {"sends": 3, "resend_waits": [30, 60]}, "channels": ["sms"]}
    after = {
        "name": "Balance",
        "active": False,
        "limits": {"sends": 2, "resend_waits": [30]},
        "channels": ["sms", "mail"],
    }
    assert list(differences(before, after)) == [
        Difference("active", "yes", "no"),
        Difference("limits.sends", "3", "2"),
        Difference("limits.resend_waits", "30, 60", "30"),
        Difference("channels", "sms", "sms, mail"),
    ]


def test_steps_are_compared_place_by_place() -> None:
    before = {"steps": [{"kind": "identify", "by": ["phone"]}, {"kind": "verify", "any_of": ["totp"]}]}
    after = {"steps": [*before["steps"], {"kind": "verify", "any_of": ["password", "sms_code"]}]}
    assert list(differences(before, after)) == [
        Difference("steps[3].kind", "", "verify"),
        Difference("steps[3].any_of", "", "password, sms_code"),
    ]


def test_what_is_gone_and_what_is_new_have_one_empty_side() -> None:
    assert list(differences({"old": "x", "none": None}, {"new": "y"})) == [
        Difference("old", "x", ""),
        Difference("new", "", "y"),
    ]
