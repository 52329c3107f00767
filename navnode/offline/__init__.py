"""Projection, registration and reconstruction of files: :mod:`files` answers the requests of :mod:`requests`."""
