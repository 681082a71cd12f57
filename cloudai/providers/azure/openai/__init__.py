"""Azure OpenAI: chat, embeddings, fine-tuning, deployments, batches."""
