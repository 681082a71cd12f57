"""Batch transforms: SageMaker's, Bedrock's, and on the client's side."""
