"""Rows of the reliability catalogue, run against real processes on loopback: attacks and faults with a pass figure.

`python -m scripts.rows` runs all, `python -m scripts.rows LOAD-07 …` some; one line each.
"""
