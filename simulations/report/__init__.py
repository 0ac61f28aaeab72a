"""What a run says: tables, confidence intervals, plots, one HTML file."""
