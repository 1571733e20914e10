"""Handwritten digits in the plane of temperature and initial disorder."""
