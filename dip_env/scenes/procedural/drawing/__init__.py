"""Draw one crowded scene: arrange it, render it, and annotate what is visible."""
