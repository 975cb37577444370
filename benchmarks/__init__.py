"""What confinement costs, beside other sandboxes: ``python -m benchmarks``."""
