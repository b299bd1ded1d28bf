"""Image sets, data sources, splits, poisons and forget sets."""
