"""The page: a web server beside the node, fed over ZeroMQ."""
