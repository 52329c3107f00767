"""Projection, registration and reconstruction of files: :mod:`requests`, and what answers them, :mod:`files`."""
