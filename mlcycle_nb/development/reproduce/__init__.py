"""Running a run again from what was recorded of it, and comparing what came out, bit for bit."""
