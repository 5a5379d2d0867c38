"""What admins decide: journeys, channels and settings; what may be said of them, how a change becomes a version."""
