"""HTTP: translates requests into one service call each, and values into pages."""
