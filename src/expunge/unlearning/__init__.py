"""One unlearning: a method with its update mask, its adapters and its name."""
