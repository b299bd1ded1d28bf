"""What a model predicts, and what that reveals of its training set."""
