"""What earlier releases have written."""
