"""Speed of the compile pipeline, the CPU schedule rule and the exporters."""
