"""A page to look through a run: HTML made from an output directory alone."""
