"""What `headrace top` and `headrace dashboard` show: one picture of caches, loads and jobs, kept by watches."""
