"""Drivers that run a slot: process.py runs it as a local process."""
