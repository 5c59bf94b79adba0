"""Where the numbers of a run go while it runs. The run folder itself is the tracker that is always there."""
