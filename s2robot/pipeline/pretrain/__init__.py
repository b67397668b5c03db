"""How the embedded encoders are made: random scenes on disk, crops of them, objectives, and the run."""
