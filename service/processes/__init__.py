"""The server as one process or several.

``serve`` runs one, ``workers`` starts several and starts anew those that die, ``pulse`` tells which hang, ``ending``
ends a process in time after a signal, ``listening`` binds the port.
"""
