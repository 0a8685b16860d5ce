"""Doubles of the upstreams: HTTP servers that can be scripted to misbehave, for tests, the bench and the demo."""
