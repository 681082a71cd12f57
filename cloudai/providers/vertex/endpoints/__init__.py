"""Endpoints: models uploaded, deployed and given traffic."""
