"""Programs for developers: demo, rows of the reliability catalogue, benchmarks."""
