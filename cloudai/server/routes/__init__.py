"""What can be asked: one file a protocol. Each route is handed the inference and a request."""
