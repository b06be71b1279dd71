"""Advantages and losses: pure functions of tensors, independent of models and environments."""
