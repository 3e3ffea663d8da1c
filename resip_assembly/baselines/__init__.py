"""What the paper compares with (sheet §2.9): PPO on the chunked MLP, DPPO, value re-ranking of the base."""
