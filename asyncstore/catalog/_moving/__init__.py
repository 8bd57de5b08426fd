"""What a transfer does: plans carried out, under the limits of the storage and of the process."""
