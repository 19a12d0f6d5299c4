"""Longer tests: real servers, a real browser, other versions, the documents line by line."""
