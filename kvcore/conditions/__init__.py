"""Conditions: how a sample's cache is made, as frozen data that composes."""
