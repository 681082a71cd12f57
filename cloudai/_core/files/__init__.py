"""Files on their way: what travels, how it is packed, and how an archive is taken apart."""
