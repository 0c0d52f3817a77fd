"""A run's maps and figures in the formats of other tools."""
