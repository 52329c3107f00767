"""Gateways: what is not OpenIGTLink is served as OpenIGTLink, each source by a process of its own.

A driver that crashes, or a peer that floods, ends its gateway and nothing else.
"""
