"""What every program of the tests imports; ``tests/programs.py`` says why it is imported ahead."""

from __future__ import annotations

__all__: list[str] = []
