"""Everything that leaves the portal: callbacks to Flow, messages to customers, notices and webhooks."""
