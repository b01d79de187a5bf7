"""The leaderboard: what every run recorded, kept in a database, ranked and shown.

``store`` holds the only queries, ``ranking`` the order, ``views`` what the JSON interface and the
pages share, ``charts`` the curves and ``web`` the server. Nothing is imported here, so that a
caller that only draws a curve does not load a database or a web server.
"""
