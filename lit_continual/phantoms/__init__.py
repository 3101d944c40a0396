"""Seeded data for those who have none; only configs and tests know it."""
