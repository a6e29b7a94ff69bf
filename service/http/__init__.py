"""What holds for every call: its connection, whom it is for, who asks, what it may send, how much is let in."""
