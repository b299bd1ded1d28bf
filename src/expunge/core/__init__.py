"""What everything else stands on: configuration, plug-ins, randomness, weights and masks."""
