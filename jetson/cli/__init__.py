"""The commands `keys`, `bundle`, `flash`, `wheels`, `device` and `fleet`."""
