"""Byte streams on trio, with no protocol of ours: TLS, peeking, copying, socket options.

What is true of every stream here: FIN and abort are different things, and
neither ever turns into the other; nothing waits without a deadline; a
cancelled send leaves its stream broken, so whoever cancels resets it.
"""
