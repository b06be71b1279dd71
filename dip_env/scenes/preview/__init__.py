"""Look at a source before training on it: counts and contact sheets."""
