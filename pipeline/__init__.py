"""One regression written four ways in PyTorch, swept, evaluated and tracked."""
