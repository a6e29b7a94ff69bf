"""Bounds and checks on every request, in the order in which it meets them.

``connections`` how many are open, ``connection`` its head and how its answer is taken, ``access_log`` its line in the
log, ``limits`` its body and its time, ``hosts`` its Host, ``auth`` and ``keys`` who may call, ``parameters`` what it
may give, ``admission`` how many images and bytes are in the server at once.
"""
