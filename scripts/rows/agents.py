"""Rows about agents that come twice, are revoked, or stop."""
