"""Measures what the pipeline claims: `make bench`."""
