"""Training: rules, optimizers, steps, batches and losses."""
