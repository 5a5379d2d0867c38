"""Who may work here: admins and their sessions, programs and their keys."""
