"""Networks with faults between relay and agent, on one machine: rows of the reliability catalogue about the network.

Hosts are network namespaces (`hosts.py`), faults are nftables, tbf and a
forwarder between two tun devices (`faults.py`, `wire.py`), programs are the
real command line (`programs.py`).  `python -m scripts.lab` runs all rows,
`python -m scripts.lab NET-01 --transport h2` some.  Needs root.
"""
