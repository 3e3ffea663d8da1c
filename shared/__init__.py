"""Plumbing used by at least two of the five papers; it knows no paper."""
