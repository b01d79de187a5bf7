"""The leaderboard: what every run recorded, kept in a database, ranked and shown.

``store`` writes and reads, by the ``queries`` beside it; ``ranking`` holds the order, ``views``
what the JSON interface and the pages share, and ``web`` the server. Nothing is imported here, so
that who only ranks loads no database and no web server.
"""
