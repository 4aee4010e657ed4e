"""Loop nests and statements that the schedule templates write."""
