"""`python -m echo doctor URL`: a client that says what works and what is missing, and where.

The doctor is independent of the service: it knows it only by its answers, and imports nothing of
it. A step asks one question of the server and answers with one finding; a finding that is not
well names its cause, and a cause says which line to add and where.
"""
