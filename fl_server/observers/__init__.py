"""Who follows a run: the terminal, the leaderboard."""
