"""Longer tests: real servers, a real browser, other versions, the README line by line."""
