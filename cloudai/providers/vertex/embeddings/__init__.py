"""Embeddings of Google's models."""
