"""Large objects in S3, in parts: files that go up, and copies."""
