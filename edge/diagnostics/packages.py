"""Python packages of this environment, behind an interface that tests can replace."""

from __future__ import annotations

import importlib
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Protocol


class Packages(Protocol):
    """Packages of an environment."""

    def load(self, module: str) -> Any:
        """Import a module.

        Raises:
            ImportError: It is not installed, or one of its libraries is missing.
        """

    def is_installed(self, module: str) -> bool:
        """Return whether a module can be found, without importing it."""

    def version(self, distribution: str) -> str | None:
        """Return the version of a distribution, None if it is not installed."""


class InstalledPackages:
    """Packages of the running environment."""

    def load(self, module: str) -> Any:
        """Import a module."""
        return importlib.import_module(module)

    def is_installed(self, module: str) -> bool:
        """Return whether a module can be found, without importing it."""
        return find_spec(module) is not None

    def version(self, distribution: str) -> str | None:
        """Return the version of a distribution, None if it is not installed."""
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            return None
