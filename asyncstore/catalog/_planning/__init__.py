"""What a transfer is to do: both sides are looked at, and decided upon by pure functions."""
