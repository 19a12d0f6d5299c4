"""From the raw table to numbers that are known to be right."""
