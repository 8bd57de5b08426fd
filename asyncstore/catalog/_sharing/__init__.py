"""Links and forms for those who have no keys."""
