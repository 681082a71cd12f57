"""Offline clouds: servers on loopback that the vendors' own SDKs talk to over real sockets."""
