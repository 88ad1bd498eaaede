"""What `main`, `sweep` and `report` call; each file is imported when its command is asked for."""
