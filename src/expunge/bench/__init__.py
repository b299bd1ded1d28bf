"""Comparisons of methods, their execution, and hyperparameter search."""
