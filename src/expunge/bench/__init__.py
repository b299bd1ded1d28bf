"""Lists of configurations, and how they are run."""
