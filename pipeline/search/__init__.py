"""Which runs a sweep trains, where its lists alone do not decide it: Optuna proposes them, or rungs drop them."""
