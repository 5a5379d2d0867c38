"""What the product does. Services own their tables and every write; they know nothing of HTTP."""
