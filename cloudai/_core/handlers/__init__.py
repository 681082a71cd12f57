"""The user's inference code, the same in an endpoint, in a batch and in a container."""
