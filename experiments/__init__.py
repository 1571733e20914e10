"""Thin scripts that run from the checkout."""
