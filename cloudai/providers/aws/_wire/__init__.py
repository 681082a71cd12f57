"""What goes over the wire, pure: requests encoded, answers decoded. No I/O, no SDK."""
