"""Journeys with steps that are answered by a form alone, for the tests of their pages and rules."""

from __future__ import annotations

from typing import Any

from tests.security.tools import deliver
from tests.world import Browser, World

IDENTIFY = '{ kind = "identify", by = ["customer_id", "phone", "email"] }'
PASSWORD_STEP = '{ kind = "verify", any_of = ["password"] }'
SMS_STEP = '{ kind = "verify", any_of = ["sms_code"] }'
TEXT = "# Your account\\n\\nWe open **one** account.\\n\\n- Up to R 10,000: 5.1 %\\n- Above: 6.4 %"
TERMS = (
    '{ kind = "terms", version = "3", valid_from = "2026-11-01", title = "Read and accept the savings terms", '
    f'text = {{ en = "{TEXT}", zu = "Imigomo yethu" }}, boxes = [ '
    '{ key = "read", label = "I have read these terms" }, '
    '{ key = "tips", label = "Send me savings tips", required = false } ] }'
)
PLAIN_TERMS = TERMS.partition(", boxes")[0] + " }"
AGAIN = TERMS.removesuffix(" }") + ', again = "changed" }'
QUESTIONS = """{ kind = "questions", questions = [
  { key = "why", kind = "single", ask = "Why did you contact us today?", options = [
    { value = "balance", label = "To check my balance" }, { value = "problem", label = "To report a problem" } ] },
  { key = "what", kind = "text", ask = "What went wrong?", most = 40, only_if = { key = "why", is = "problem" } },
  { key = "nps", kind = "nps", ask = "How likely are you to recommend us?", low = "Not at all", high = "Very likely" },
  { key = "better", kind = "text", ask = "What could we do better?", required = false } ] }"""
ALL_AT_ONCE = QUESTIONS.replace('kind = "questions",', 'kind = "questions", title = "A few questions", layout = "all",')
HANDOVER = """{ kind = "handover", title = "Talk to a person", zone = "Africa/Johannesburg", hosts = ["chat.example"],
  hours = { mon = ["08:00-18:00"], tue = ["08:00-18:00"], wed = ["08:00-18:00"], thu = ["08:00-18:00"],
    fri = ["08:00-18:00"], sat = ["09:00-13:00"] }, holidays = ["2026-11-24"], options = [
  { key = "web", kind = "chat", label = "Chat on our website", address = "https://chat.example/start?team=cards" },
  { key = "call", kind = "call", label = "Call us", hint = "0860 100 200", address = "+27860100200" },
  { key = "message", kind = "whatsapp", label = "Leave a WhatsApp message", address = "27115550100", when = "closed" },
  { key = "mine", kind = "url", label = "My page", address = "https://chat.example/me", shares_customer = true,
    when = "always" } ] }""".replace("\n", " ")


def stepped(slug: str, *steps: str, more: str = "", channels: str = '"sms"') -> str:
    """The TOML of a journey with these steps."""
    listed = ",\n".join(steps).replace("{", "{{").replace("}", "}}")
    return f"""
[[journeys]]
slug = "{slug}"
name = "{slug.replace("-", " ").capitalize()}"
channels = [{channels}]
{more}
steps = [{listed}]
[journeys.callback]
server = "{{receiver}}"
"""


def started(world: World, slug: str, reference: str = "abc", **fields: str) -> Browser:
    """A browser that has sent the first form of a journey."""
    browser = world.browser()
    browser.open(reference, slug)
    browser.post(f"/j/{slug}", **fields)
    return browser


def results(world: World) -> list[dict[str, Any]]:
    """What the chat received: the results with their variables."""
    deliver(world)
    return [{"result": call.body["result"], **call.body["data"]} for call in world.receiver.callbacks]
