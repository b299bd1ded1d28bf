"""How a model is trained: rules, optimizers, steps, batches and losses."""
