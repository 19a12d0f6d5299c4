"""The pictures of a sweep, a file each: a table for `dvc plots`, a figure, and a sentence on what this sweep shows."""
