"""Judging pictures: an own detector, prompts with known facts, and the tables made of them."""
