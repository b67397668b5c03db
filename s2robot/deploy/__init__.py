"""Checkpoint to robot: bundle, runtime, policy server, safety gate, control loop. Only `export` needs torch."""
