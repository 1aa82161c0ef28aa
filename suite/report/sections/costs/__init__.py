"""What a step costs in time and memory, and what that buys."""
