"""Every torchvision classifier explains itself without a flag: its layer, grid and probe class."""
