"""What people see of runs on MLflow's pages: names, descriptions, figures of sweeps, saved views, links."""
