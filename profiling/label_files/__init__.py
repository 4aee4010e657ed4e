"""Label files: compressed JSON Lines of networks and of their variants."""
