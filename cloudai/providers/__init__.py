"""The providers. Each is a folder that knows none of its siblings; README.md says how to write
one."""
