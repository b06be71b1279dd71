"""People: bodies, clothes, what they carry, and crowds far away."""
