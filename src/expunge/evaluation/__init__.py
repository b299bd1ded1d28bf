"""What a model predicts, and what that tells of its training set."""
