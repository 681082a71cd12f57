"""What a worker process runs: the user's handler, or a model that needs none."""
