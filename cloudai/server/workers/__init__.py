"""The worker processes of a model: the front's end of them, their own, and what the two say."""
