"""Listings of S3, page by page or by ranges of keys."""
