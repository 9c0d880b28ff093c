"""Talking to models over the network: the worker processes, the API and the page."""
