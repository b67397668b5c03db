"""`s2robot bench`: contestants, and the run that times them against each other."""
