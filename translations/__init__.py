"""The languages of customers: a folder for each, and what keeps the catalogs in step with the code."""
