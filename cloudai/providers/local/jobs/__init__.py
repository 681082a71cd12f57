"""Processes that outlive their client: training jobs and batches on this machine."""
