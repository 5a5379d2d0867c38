"""The customer's pages in the engines of other browsers than Chromium: ``make test-engines``."""
