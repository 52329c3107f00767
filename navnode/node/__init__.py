"""The processes, and the sockets around the loop."""
