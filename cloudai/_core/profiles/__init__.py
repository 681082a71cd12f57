"""Profiles, the registry of providers, secrets, and the folder of state."""
