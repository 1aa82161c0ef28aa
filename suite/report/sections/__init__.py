"""Sections of the report, one file each, in folders by the question that they answer."""
