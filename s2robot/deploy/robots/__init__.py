"""Robots behind one protocol of five methods: a simulated one, a ROS 2 graph, a recorded log."""
