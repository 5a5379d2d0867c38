"""How much a customer has to do: the taps from the link to the last page, counted by the browser that is touched."""

from __future__ import annotations

import time
from dataclasses import dataclass

from playwright.sync_api import Locator, Page, expect

from tests.e2e.phone import Person, Phone, waited

MOST_TAPS = 3  # for a customer whose phone is on file; the digits of the code come on top
KEY_MILLISECONDS = 200  # a person who types with one thumb
COUNTS_TOUCHES = """() => {
  const count = () => sessionStorage.setItem("touches", Number(sessionStorage.getItem("touches")) + 1);
  addEventListener("touchstart", count, { capture: true });
}"""


@dataclass
class Thumb:
    """Taps and types as a thumb does: a field that already has the focus needs no tap."""

    page: Page

    @property
    def taps(self) -> int:
        """Return the touches that the browser saw in this tab, on all pages."""
        return int(self.page.evaluate("Number(sessionStorage.getItem('touches'))"))

    def enter(self, field: Locator, text: str) -> None:
        field.wait_for()
        waited(lambda: self.page.evaluate("document.readyState") == "complete")
        if not field.evaluate("(field) => field === document.activeElement"):
            field.tap()
        self.page.keyboard.type(text, delay=KEY_MILLISECONDS)
        expect(field).to_have_value(text)

    def go_on(self) -> None:
        with self.page.expect_navigation():
            self.page.locator("form.main-form button.main").tap()


def test_a_known_customer_proves_a_phone_with_three_taps(phone: Phone, person: Person, record_property: object) -> None:
    phone.context.add_init_script(f"({COUNTS_TOUCHES})()")
    chat = phone.begin("balance")
    began = time.monotonic()
    page = phone.open(chat.link)
    thumb = Thumb(page)
    thumb.enter(page.locator("#identifier"), person.customer_id)
    thumb.go_on()
    thumb.enter(page.locator("#code"), phone.code_sent_to(person.phone))
    thumb.go_on()
    expect(page.get_by_role("heading", level=1)).to_have_text("Done. Go back to your chat")
    seconds = time.monotonic() - began
    assert chat.answered()["result"] == "verified"
    assert 1 < thumb.taps <= MOST_TAPS
    record_property("seconds", seconds)  # type: ignore[operator]
    print(f"{thumb.taps} taps, {seconds:.1f} s at {KEY_MILLISECONDS} ms a key")  # noqa: T201
