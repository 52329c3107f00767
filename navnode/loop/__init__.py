"""The loop, as values in and values out: no sockets, threads or clocks."""
