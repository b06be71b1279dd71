"""Conversations as tokens: buffers, chat templates, packing."""
