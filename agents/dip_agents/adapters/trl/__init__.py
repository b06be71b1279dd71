"""TRL's GRPOTrainer over an episode: tools, or looks and answer in a single message."""
