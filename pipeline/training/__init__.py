"""All that determines a run's result, beside its variant and the prepared table: a fingerprint covers this folder."""
