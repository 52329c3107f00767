"""Who may talk to us: TLS for consoles and sources, CurveZMQ for a worker elsewhere."""
