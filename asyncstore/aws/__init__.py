"""AWS: settings and credentials that both S3 engines share."""
