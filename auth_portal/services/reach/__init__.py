"""Who can pass a journey, who cannot, and why."""
