"""Change one thing about looking, step by step, and report what it does."""
