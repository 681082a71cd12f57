"""What the emulated clouds share."""
