"""What happened, told to admins: stories, the audit trail, figures; lists that page by key."""
