"""Live web page of a running pipeline, with status and metrics for monitoring tools."""
