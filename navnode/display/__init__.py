"""The page: a web server beside the node, which gets the node's outputs over ZeroMQ."""
