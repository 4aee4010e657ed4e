"""Running a compiled network to time it: on this machine, or on a board through RPC."""
