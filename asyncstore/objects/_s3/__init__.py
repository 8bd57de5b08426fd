"""Talking to a server of S3: where it is, what it can do, and requests by our own HTTP or by obstore."""
