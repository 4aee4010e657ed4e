"""How the commands take damaged files."""
