"""Stands in for pip in emulated containers; see ``_image``."""
