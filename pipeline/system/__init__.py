"""The machine and the repository that the pipeline runs in."""
