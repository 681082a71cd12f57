"""HTTP/1.1: requests and answers, and the connections that carry them. Knows no model."""
