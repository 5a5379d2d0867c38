"""What happened: the story of each verification, the audit trail, deliveries and figures."""
