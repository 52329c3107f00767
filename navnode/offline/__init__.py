"""Work on files, of the commands: :mod:`projecting`, :mod:`registering`, :mod:`reconstructing` and others answer the
requests of :mod:`requests`."""
