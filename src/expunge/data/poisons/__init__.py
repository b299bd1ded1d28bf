"""Poisons, one per file: what is done to the poisoned images."""
