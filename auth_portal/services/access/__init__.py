"""Access to the portal: admins, their roles and sessions, and API keys."""
