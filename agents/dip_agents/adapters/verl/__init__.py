"""verl's agent loop over an episode, and the rows of its data set."""
