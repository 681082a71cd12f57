"""Embeddings: Bedrock's models, and SageMaker endpoints."""
