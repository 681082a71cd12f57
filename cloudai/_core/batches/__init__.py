"""Batches that run on the client's side: the runner, its formats, its progress."""
