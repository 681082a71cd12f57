"""The one path of a call: span, pace, retry; threads and waiting."""
