"""Images, where they come from, and which of them to forget."""
