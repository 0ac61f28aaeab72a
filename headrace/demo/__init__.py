"""The main job, end to end, on this machine: a distant store, a load, a gang, a kill, a resume, cold against warm."""
