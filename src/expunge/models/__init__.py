"""Network architectures, one per file: functions that return a module."""
