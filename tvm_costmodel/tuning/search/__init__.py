"""Search strategies over candidates, and which of them to measure."""
