"""The world: crowded scenes, episodes and their rewards, as a Gymnasium environment."""
