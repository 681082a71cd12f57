"""The one path of a call: span, rate limiter, retry, breaker; threads and waiting."""
