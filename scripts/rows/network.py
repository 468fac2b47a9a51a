"""Rows about lost and half-open connections."""
