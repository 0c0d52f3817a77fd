"""What a run writes, and drawing from what was written."""
