"""Cost models of kernel schedules inside AutoTVM and auto_scheduler."""
