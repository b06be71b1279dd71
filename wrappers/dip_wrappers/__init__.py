"""The environment seen another way: chat messages and traces."""
