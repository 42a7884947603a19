"""What flies: frames, preprocessing, engines, the pipeline, sinks, the profiler, the release."""
