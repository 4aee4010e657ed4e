"""The schedule templates, one kind of kernel a file."""
