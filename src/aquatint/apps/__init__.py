"""Doors that people and programs come in by: each turns words into a Request and shows what comes out."""
