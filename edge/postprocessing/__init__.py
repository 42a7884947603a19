"""From saliency maps to smoothed maps, peaks, regions and tracks."""
