"""Drills of a started node over TCP: room, X-rays and console share no line of code with the node that they judge."""
