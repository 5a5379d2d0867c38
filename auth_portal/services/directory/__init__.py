"""The directory: customers and their credentials; nobody else writes those tables."""
