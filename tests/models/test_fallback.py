"""torchvision imports with its compiled operators and without them."""
