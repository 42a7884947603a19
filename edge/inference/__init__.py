"""From a release and an engine to saliency maps: engine selection and the saliency model."""
