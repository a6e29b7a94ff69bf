"""The server as processes: one or several, their signs of life, and their end."""
