"""One run on several processes: which shard this one is, and one process for each GPU."""
