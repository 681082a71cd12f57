"""Chat: Gemini, and endpoints in OpenAI's format."""
