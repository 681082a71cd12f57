"""Endpoints on SageMaker: real-time, serverless, asynchronous."""
