"""The server processes behind local endpoints."""
