"""Play policies on held-out scenes, score their answers, and audit rewards."""
