"""Formats that several rooms read and write."""
