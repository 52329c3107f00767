"""The commands: options to a request, a library call, and what is shown of it."""
