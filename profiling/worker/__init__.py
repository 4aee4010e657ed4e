"""The program that builds and times networks, and the client that talks to it."""
