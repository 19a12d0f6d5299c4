"""What a person runs besides DVC."""
