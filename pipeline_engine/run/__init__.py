"""Bind roles to models and run: wires the floors below together, once.

Nothing is gathered here: each name comes from its own module, so that running one document does not
load what only batches, hosts or reports need.
"""
