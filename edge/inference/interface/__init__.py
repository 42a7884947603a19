"""The interface that every inference engine implements."""
