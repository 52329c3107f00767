"""Who may connect: TLS for consoles and sources, CurveZMQ for a worker on another machine."""
