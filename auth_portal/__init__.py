"""Auth Portal: verifies the customers of a chat and sends Clickatell Chat Flow one result.

Reading order for a newcomer (under an hour):

1. ``bootstrap``               how the parts meet, and how a process starts
2. ``services.serving``        every service, and the only place that creates them
3. ``web.visitor``             what a browser sends and gets
4. ``services.verification``   the heart: landing, begin, prove, moves, end; ``tries`` counts wrong codes
5. ``methods.contract``        what a method is
6. ``methods.totp``            the smallest complete one
7. ``services.delivery.outbox``  how a result leaves and is never lost
8. ``tests/e2e``               all of it, in a browser

A part imports what stands to its right, and nothing else::

    __main__ -> bootstrap -> web | cli | sandbox -> services -> methods
              -> store | gateways -> settings, errors, crypto, telemetry, i18n, clock, typed

``tests/test_layers.py`` checks it, inside ``services`` as well.
"""
