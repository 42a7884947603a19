"""Annotation of a clip with boxes: the files, the interpolation, and the page on which boxes are drawn."""
