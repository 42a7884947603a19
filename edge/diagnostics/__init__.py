"""Checks of what this machine can do, what it lacks, and which command fixes each lack."""
