"""Ways to prune a model, one per file."""
