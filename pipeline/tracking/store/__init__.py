"""The store: an experiment's runs in MLflow's database, or behind an MLflow server."""
