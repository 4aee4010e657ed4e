"""One measurement: its settings, timing, environment and the record that it leaves."""
