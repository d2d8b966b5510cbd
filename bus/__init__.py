"""Hints between processes and tasks."""
