"""Chat: Bedrock's Converse, and SageMaker endpoints in OpenAI's format."""
