"""Certificates that the world trusts, from an ACME server (RFC 8555)."""
