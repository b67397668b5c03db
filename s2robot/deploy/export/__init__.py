"""Checkpoint to bundle: the only part of the room that needs torch."""
