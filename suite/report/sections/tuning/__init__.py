"""What tuning tried, and how sensitive a method is."""
