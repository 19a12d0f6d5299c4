"""Registered models: which run is the champion, what is registered and served, and what predicts."""
