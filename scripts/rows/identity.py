"""Rows about keys, certificates, files."""
