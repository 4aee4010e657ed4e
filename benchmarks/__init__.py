"""Commands that print the project's figures, a folder for each group of figures."""
