"""Predictions of a model, and membership inference from them."""
