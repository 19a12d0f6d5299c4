"""Which configurations a sweep trains, where its lists do not give them all: Optuna proposes them, or rungs drop them."""
