"""The one definition of how a camera frame becomes a network input."""
