"""Networks; nothing here trains."""
