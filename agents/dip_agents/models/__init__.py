"""Vision-language models: weights, forward passes, loading and saving."""
