"""Keys, signatures and trust."""
