"""What a run is, and what is known of it: its record, its fingerprint, its sweep."""
