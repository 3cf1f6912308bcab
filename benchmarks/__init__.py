"""What it costs to carry calls, measured from outside, each number beside the least it could cost: its floor."""
