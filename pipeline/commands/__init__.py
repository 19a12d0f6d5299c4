"""The commands that a person runs besides DVC's."""
