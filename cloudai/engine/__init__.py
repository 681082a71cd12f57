"""Models on this machine: chat, embeddings, fine-tuning. Knows no provider, profile or server."""
