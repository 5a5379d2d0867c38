"""Auth Portal: proves who is chatting and tells Clickatell Chat Flow, exactly once.

Reading order for a newcomer (under an hour):

1. ``bootstrap``               how the parts meet
2. ``web.visitor``             what a browser asks and gets
3. ``services.verifications``  the heart: one table of states and what moves between them
4. ``methods.contract``        what a way to prove oneself is
5. ``methods.totp``            the smallest whole one
6. ``services.outbox``         how an answer leaves, and is never lost or invented
7. ``tests/e2e``               all of it, in a browser

A part may import what stands to its right, and nothing else::

    bootstrap -> web | cli | sandbox -> services -> steps -> methods
              -> store | gateways -> settings, errors, crypto, telemetry, i18n, clock

``tests/test_layers.py`` keeps it so.
"""
