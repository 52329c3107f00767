"""What the module NavnodeConsole does without 3D Slicer: the wire, the connection, and what may be shown."""
