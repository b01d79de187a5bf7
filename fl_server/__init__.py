"""The organiser: command lines, runtimes, round loop, leaderboard."""
