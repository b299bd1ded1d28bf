"""Foundations: configuration, plug-ins, randomness, weights and masks."""
