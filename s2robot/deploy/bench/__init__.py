"""Measured on the deployed parts: latency, closed loop in real time, delay, faults."""
