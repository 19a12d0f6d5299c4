"""The metrics and plots of stage evaluate, and how far results of two machines may differ."""
