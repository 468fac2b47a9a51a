"""The benchmark: trunnel beside limits measured in the same run, on this machine.

`python -m scripts.bench` takes the median of several rounds, prints a table
and writes `bench/results/*.json`; `--quick` takes fewer and shorter rounds.
"""
