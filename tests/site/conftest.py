"""What of this folder pytest leaves alone."""

# It is imported by the builder of the site, and needs what only the dependency group `docs` brings.
collect_ignore = ["doctests.py"]
