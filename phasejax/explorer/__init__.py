"""The explorer: a run as one HTML page of linked views that needs no network."""

from phasejax.explorer.page import EXPLORER, Page, explore

__all__ = ["EXPLORER", "Page", "explore"]
