"""Group relative policy optimisation: groups of rollouts, advantages, updates."""
