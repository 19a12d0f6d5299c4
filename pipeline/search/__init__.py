"""Which runs a sweep trains, where its lists alone do not say it: Optuna proposes them, or rungs drop them."""
