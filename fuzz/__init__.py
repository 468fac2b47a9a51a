"""Fuzz targets: functions that take a stranger's bytes and assert invariants (see README.md)."""
