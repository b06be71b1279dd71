"""Sky, ground, buildings, props, and what may be mistaken for a person."""
