"""The parts of the page: what stands there without script, and the columns from which a script draws the rest."""
