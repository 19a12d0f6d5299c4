"""The raw table, read as checked numbers."""
