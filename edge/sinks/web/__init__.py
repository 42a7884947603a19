"""The live page: what a running pipeline sees and how it does, for a browser, Prometheus, or a watchdog."""
