"""Robots whose models a package brings, and how they move."""
