"""What a person may ask for: params.yaml, checked, and conditions on runs."""
