"""Scores of students on data sets, contact sheets and motion twins."""
