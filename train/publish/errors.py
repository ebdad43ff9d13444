"""What goes wrong here, in words for a person."""

from __future__ import annotations


class ExportError(Exception):
    """A form of an adapter could not be made, or did not answer as it should."""


class RegistryError(Exception):
    """What was asked of the registry is refused; the message says why, and what to do."""
