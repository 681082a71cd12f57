"""Custom jobs and tuning jobs."""
