"""What people look at: the report page, the terminal's summary, pictures of comparisons. Reads runs, knows no torch."""
