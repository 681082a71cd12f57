"""Azure Machine Learning: command jobs, managed online endpoints and batch on a workspace.

The requests are those that azure-ai-ml 1.35 sends, to the same version of the service; its
client is not used: it takes over a second to import, and uploads and waits by itself. They go
through azure-core's pipeline and azure-storage-blob, as its own do.
"""
