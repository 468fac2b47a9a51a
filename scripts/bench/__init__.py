"""The benchmark: trunnel beside what others do, on one machine, in one run.

`python -m scripts.bench` measures in rounds; within a round each peer does the
same work in turn, so that what the machine does besides hits all alike.  It
prints a table and writes Markdown, JSON and plots to bench/results.

Rules that keep it honest: what is measured is the installed wheel with default
settings and all limits on, run by an ordinary user; every byte is counted and
sampled; one failed stream is a failed measurement; a stalled and a resetting
visitor are beside everything; encrypted is compared with encrypted, plain with
plain; and what stands in the judgement is the median of ratios of one round.
"""
